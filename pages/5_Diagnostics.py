"""What is wrong with a run, or was checked and is not."""

from ui.layout.shell import shell, show_rejected
from ui.sections.diagnostics import checks, findings, next_steps, reading_log

judgement, run = shell("Diagnostics")
file = next(file for file in judgement.files if file.run == run.id)
own = [finding for finding in judgement.findings if finding.run == run.id]
show_rejected(judgement)
findings(judgement, run, file, own)
checks(judgement, run, own)
reading_log(judgement, run, file)
next_steps(judgement, run, file)
