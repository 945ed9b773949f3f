"""What is known of the runs that were chosen, and questions of one's own about them, in SQL."""

from ui.layout.shell import shell
from ui.sections.runs import hashes, metadata, schema_table, side_tables, sql_console

judgement, run = shell("Runs")
file = next(file for file in judgement.files if file.run == run.id)
sql_console(judgement)
metadata(file)
hashes(file)
side_tables(file)
schema_table(file)
