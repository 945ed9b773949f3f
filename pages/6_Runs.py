"""The Runs page: queries in SQL over all chosen runs, and options, facts, hashes and columns of one run."""

from ui.layout.shell import shell
from ui.sections.runs import hashes, metadata, schema_table, side_tables, sql_console

judgement, run = shell("Runs")
file = next(file for file in judgement.files if file.id == run.id)
sql_console(judgement)
metadata(file)
hashes(file)
side_tables(file)
schema_table(file)
