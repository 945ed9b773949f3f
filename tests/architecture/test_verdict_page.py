"""The tables of docs/verdict.md are the decision table of the code: the same reasons, in the same order."""

import re

from tests.support.source_tree import ROOT
from validation.verdict.claims import Reason

COMBINED = {Reason.SAME_IN_EVERY_GROUP, Reason.GROUPS_DIFFER, Reason.AS_WRITTEN, Reason.NO_PERTURBATION}
"""Reasons of claims over several experiments, as written or of peers, which no line of the table gives."""


def test_the_page_has_each_reason_in_the_order_of_the_code():
    page = (ROOT / "docs" / "verdict.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| (\d+ \| )?`", line)]
    listed = [name for row in rows for name in re.findall(r"`([a-z_]+)`", row.split("|")[2 if row[2].isdigit() else 1])]
    listed.insert(listed.index("not_finished"), "depends_on_invalid_runs")  # between the two tables, as a sentence
    assert "`depends_on_invalid_runs`" in page
    listed = [*dict.fromkeys(listed)]  # the table of `distinct` shares reasons with the first one
    assert listed == [reason.value for reason in Reason if reason not in COMBINED]
