"""The contract between training and judging: tables, columns, thresholds. Standard library only."""
