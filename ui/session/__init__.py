"""The state of one browser session: chosen runs, the address, live updates and alerts."""
