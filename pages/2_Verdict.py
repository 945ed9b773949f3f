"""The Verdict page: the claims of one run with their evidence, next steps, thresholds and downloads."""

from ui.layout.cards import claim_cards, headline
from ui.layout.shell import shell
from ui.sections.verdict import advice, details, downloads, evidence

judgement, run = shell("Verdict")
headline(judgement, run)
claim_cards(judgement, run)

advice(judgement, run)
evidence(judgement, run)

details(judgement, run)

downloads(judgement)
