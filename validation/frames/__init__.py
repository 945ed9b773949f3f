"""Data frames that charts draw: rows, batches, cells and comparisons; no Altair."""
