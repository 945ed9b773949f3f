"""Gradients in, numbers out."""
