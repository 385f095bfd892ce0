"""How fast the data generators are, and what they cost; see `__main__` and `memory`."""
