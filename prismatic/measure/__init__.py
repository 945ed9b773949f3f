"""Gradients in, numbers out: tier norms, metrics, isolated gradients, histograms, distances of weights."""
