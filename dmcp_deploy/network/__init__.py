"""What a network is: models by name, channel groups, cost, supernet, slicing."""
