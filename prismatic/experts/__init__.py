"""A layer of experts, however a model stores them: the protocol, the tiers of their weights, the checks."""
