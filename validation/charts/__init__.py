"""Data frames in, Altair charts out."""
