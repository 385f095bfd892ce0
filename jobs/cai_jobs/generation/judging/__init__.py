"""Which of a prompt's candidates is the better one: requests to judges, their replies, and what is made of them."""
