"""Data frames that charts draw: rows, bins, cells and comparisons; no Altair."""
