"""The state of one browser session: its runs, its address, live updates, alerts."""
