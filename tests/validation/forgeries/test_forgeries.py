"""Forgeries: ways to make a null look like a yes. None passes `check --strict`, and each is named or documented."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.support.source_tree import ROOT
from tests.validation.forgeries import copies, experts, hidden, plan, rows
from tests.validation.forgeries.forging import FORGERIES, Forgery, Study, margin, naive
from validation.files.read_files import read_files
from validation.judgement.judge import Judgement, judge
from validation.report.exit_code import exit_code, objections
from validation.verdict.claims import SUPPORTED
from validation.verdict.decide import judge_runs

assert all((rows, experts, copies, plan, hidden)), "these modules fill FORGERIES"
NAMED = [forged for forged in FORGERIES if forged.named]
HIDDEN = [forged for forged in FORGERIES if not forged.named]
Trained = Callable[[str], Study]


def judged(study: Study) -> Judgement:
    return judge(*read_files(study.files), study.changes)


def names(judgement: Judgement) -> set[str]:
    """Return everything that a report says against the data: diagnostics, reasons, and doubtful thresholds."""
    claims = [claim for group in judgement.verdict.groups for claim in group.claims]
    claims += judgement.verdict.headlines.values()
    found = {finding.id for finding in judgement.findings} | {claim.reason.value for claim in claims}
    found |= {registration.status for registration in judgement.registrations}
    return found | ({"laxer"} if judgement.verdict.thresholds.laxer() else set())


def fools(forged: Forgery, study: Study, honest: Study, judgement: Judgement) -> bool:
    """Return True if the files look better than the honest ones to a reader who checks nothing."""
    if forged.effect in ("verdict", "lax"):
        lax = judgement.verdict.thresholds.changed(plan.LAX if forged.effect == "lax" else {})
        return judge_runs(judgement.runs, {}, lax).status == SUPPORTED
    if forged.effect == "certainty":
        before, after = naive(honest, "bottom"), naive(study, "bottom")
        return after.high - after.low < 0.75 * (before.high - before.low)
    return naive(honest, forged.effect).mid < margin(forged.effect) < naive(study, forged.effect).mid


@pytest.mark.parametrize("forged", NAMED, ids=lambda forged: forged.title)
def test_no_forgery_passes_and_each_is_named(forged: Forgery, trained: Trained, copied: Trained):
    study = copied(forged.base)
    forged.forge(study)
    judgement = judged(study)
    assert fools(forged, study, trained(forged.base), judgement)
    assert exit_code(judgement, strict=True) != 0
    assert names(judgement) & forged.named


@pytest.mark.parametrize("forged", HIDDEN, ids=lambda forged: forged.title)
def test_what_the_docs_call_invisible_is(forged: Forgery, trained: Trained, copied: Trained):
    study = copied(forged.base)
    forged.forge(study)
    judgement = judged(study)
    assert fools(forged, study, trained(forged.base), judgement)
    assert not objections(judgement)
    assert judgement.verdict.headlines["awakening"].status == SUPPORTED


@pytest.mark.long
def test_honest_files_have_no_objection_and_a_true_effect_passes(trained: Trained):
    assert exit_code(judged(trained("true")), strict=True) == 0
    for base in (
        "null",
        "turned",
        "twins",
        "spread",
        "noisy rows",
        "small",
        "brief",
        "fading",
        "late",
        "no probe",
        "no ratio",
    ):
        assert not objections(judged(trained(base))), base
        assert judged(trained(base)).verdict.headlines["awakening"].status != SUPPORTED or base == "fading", base


def test_the_docs_list_every_forgery():
    page = (ROOT / "docs" / "forgeries.md").read_text()
    cells = re.findall(r"^\| ([^|]+?) +\| ([^|]+?) +\|$", page, flags=re.MULTILINE)
    documented = {title: {*re.findall(r"`(\w+)`", named)} for title, named in cells}
    for forged in FORGERIES:
        assert documented[forged.title] == forged.named
