"""Rows of the Compare page: forest plot, metrics over steps, doses, sham pairs, and the table of all runs."""
