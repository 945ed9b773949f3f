"""The verdict: claims with a status and a reason, from the estimates of `analysis`."""
