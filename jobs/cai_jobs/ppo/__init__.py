"""PPO with the critic and the reward model behind HTTP: the maths, the protocol, both programs' parts."""
