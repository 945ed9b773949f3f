"""The Verdict page: the evidence for each claim, the next steps, thresholds to change, all claims, and downloads."""

from ui.layout.shell import shell
from ui.sections.verdict import advice, choose_runs, details, downloads, evidence

judgement, run = shell("Verdict")
runs, claims = choose_runs(judgement, run)
evidence(judgement, runs, claims)

advice(judgement, run)

details(judgement, run)

downloads(judgement)
