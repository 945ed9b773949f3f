"""Arrays and estimates of runs: series, means with intervals, controls; no status."""
