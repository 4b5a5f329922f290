"""AMC: a DDPG agent chooses how much of each layer stays."""
