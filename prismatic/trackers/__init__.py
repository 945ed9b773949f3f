"""The import of runs from TensorBoard, W&B, trackio and tables: a tracker's files in, a dynamics.db out.

tracked.py      a run of any tracker: metrics by name and step
tensorboard.py, trackio.py, wandb.py, table.py   a reader each: a file or folder in, runs out
mapping.py      the TOML file that maps a tracker's names to our columns
convert.py      a run and a mapping in, a run file and a report out
command.py      the command `prismatic import`
"""
