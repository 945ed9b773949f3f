"""Runs that other trackers have logged: their files in, a dynamics.db out.

tracked.py   what any tracker's run comes to: metrics by name and step
tensorboard.py, trackio.py, wandb.py, table.py   one reader each: a file or folder in, runs out
mapping.py   which of their names is which of ours, from a small TOML file
convert.py   a tracked run and a mapping in, a run file and a report out
command.py   python -m prismatic import
"""
