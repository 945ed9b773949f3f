"""The Diagnostics page: findings of one run, all checks with their results, and how the files were read."""

from ui.layout.shell import shell, show_rejected
from ui.sections.diagnostics import checks, findings, next_steps, reading_log

judgement, run = shell("Diagnostics")
file = next(file for file in judgement.files if file.id == run.id)
found = judgement.findings_of(run.id)
show_rejected(judgement)
findings(judgement, run, file, found)
checks(judgement, run, found)
reading_log(judgement, run, file)
next_steps(judgement, run, file)
