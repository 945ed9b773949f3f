"""Many runs by one command: plan.py lists the runs, design.py says what they can decide, engines.py trains them,
runner.py retries, judge.py judges them.

Each run is one plain training command in its own process and folder. So a user can train any of them by hand, and a
finished run is never trained again.
"""
