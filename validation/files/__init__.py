"""Untrusted files in, RunFile out."""
