"""Arrays and estimates of one run; no status and no sentence."""
