"""The verdict and the diagnostics of a set of runs, joined."""
