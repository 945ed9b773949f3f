"""Why the verdict is what it is: every claim of both readings, the premise, the thresholds."""

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
