"""A layer of experts, however a model stores them: its protocol, the tiers of its weights, the checks of a model."""
