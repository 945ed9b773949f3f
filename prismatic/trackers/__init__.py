"""The import of runs from other trackers and tables: a tracker's files in, a dynamics.db out.

tracked.py       a run of any tracker: metrics by name and step
readers/         a reader for each format
formats.py       the reader that a file or folder needs
confined.py, worker.py   both ends of the pipe to the process that reads, behind walls
mapping.py       the TOML file that maps a tracker's names to our columns
name_facts.py    options that stand in the names of runs
convert.py       a run and a mapping in, a run file out
report.py        what was imported, what is missing, and what was assumed
command.py       the command `prismatic import`
"""
