"""What is known of the runs that were chosen, and questions of one's own about them, in SQL."""

from ui.runs import columns, console, hashes, metadata, tables
from ui.shell import shell

judgement, run = shell("Runs")
file = next(file for file in judgement.files if file.run == run.run)
console(judgement)
metadata(file)
hashes(file)
tables(file)
columns(file)
