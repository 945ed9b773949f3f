"""What is known of the runs that were chosen, and questions of one's own about them, in SQL."""

from ui.layout.shell import shell
from ui.sections.runs import columns, console, hashes, metadata, tables

judgement, run = shell("Runs")
file = next(file for file in judgement.files if file.run == run.run)
console(judgement)
metadata(file)
hashes(file)
tables(file)
columns(file)
