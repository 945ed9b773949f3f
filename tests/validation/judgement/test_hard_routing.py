"""Runs of hard routing, whose experts may receive no token in a logged step."""

from dataclasses import replace

import numpy as np
import pytest

from prismatic.contract.schema import TIERS
from prismatic.contract.thresholds import Thresholds
from tests.support.probed_runs import probed_run
from validation.analysis.run import Run
from validation.judgement.judge import judge_each

NORMS = (*(f"{tier}_norm" for tier in TIERS), "norm")


def starved(run: Run, expert: int, every: int = 3) -> Run:
    """Return the run as if the expert received no token in every third, or another part, of the merged rows."""
    without = np.arange(len(run.steps)) % every == 0
    layers = [
        {
            e: replace(x, columns={**x.columns, **{name: np.where(without, 0.0, x[name]) for name in NORMS}})
            if e == expert
            else x
            for e, x in layer.items()
        }
        for layer in run.layers
    ]
    return replace(run, layers=layers)


@pytest.mark.parametrize(
    ("mixture", "probe", "expected"),
    [("top_k", True, set()), ("top_k", False, {"rows_missing"}), ("parameters", True, {"rows_missing"})],
)
def test_merged_rows_without_a_token_are_no_fault_of_a_run_that_is_judged_by_its_probe(mixture, probe, expected):
    run = starved(probed_run(probe=probe, facts={"mixture": mixture}), 2)
    (judged,) = judge_each([run], Thresholds())
    assert {finding.id for finding in judged.findings if finding.severity == "error"} == expected


@pytest.mark.parametrize(("probe", "expected"), [(True, set()), (False, {"rows_missing"})])
def test_a_few_merged_rows_are_no_warning_where_the_probe_decides(probe, expected):
    run = starved(probed_run(probe=probe, facts={"mixture": "parameters"}), 2, every=20)
    (judged,) = judge_each([run], Thresholds())
    assert {finding.id for finding in judged.findings if finding.id == "rows_missing"} == expected
