"""Estimates in, claims out."""
