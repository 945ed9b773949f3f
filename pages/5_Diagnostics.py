"""What is wrong with a run, or was checked and is not."""

from ui.layout.shell import shell, show_rejected
from ui.sections.diagnostics import checked, findings, next_steps, reading

judgement, run = shell("Diagnostics")
file = next(file for file in judgement.files if file.run == run.run)
own = [finding for finding in judgement.findings if finding.run == run.run]
show_rejected(judgement)
findings(judgement, run, file, own)
checked(judgement, run, own)
reading(judgement, run, file)
next_steps(judgement, run, file)
