"""Altair charts of data frames; a file for each file of `validation.frames`."""
