"""Mixtures to study: the experts of any mixture perturbed in place, and dense models upcycled into mixtures."""
