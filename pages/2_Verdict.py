"""Why the verdict is what it is: every claim of both readings, the premise, the thresholds."""

from ui.shell import shell
from ui.verdict import advice, behind_it, downloads, evidence
from ui.views import claim_cards, headline

judgement, run = shell("Verdict")
headline(judgement, run)
claim_cards(judgement, run)

advice(judgement, run)
evidence(judgement, run)

behind_it(judgement, run)

downloads(judgement)
