"""The Verdict page: the claims of a run, or over the seeds of its group, with evidence, thresholds and downloads."""

from ui.layout.cards import claim_cards, headline
from ui.layout.shell import shell
from ui.sections.verdict import advice, choose_runs, details, downloads, evidence

judgement, run = shell("Verdict")
headline(judgement)
runs, claims = choose_runs(judgement, run)
claim_cards(judgement, claims, [each.run.id for each in runs])

advice(judgement, run)
evidence(judgement, runs, claims)

details(judgement, run)

downloads(judgement)
