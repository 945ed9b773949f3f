"""A run of many experts is judged as the same run with a row for each expert."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from tests.support.packed_runs import log_packed, unpacked_copy
from validation.analysis.load import load_runs
from validation.analysis.run import METRICS, PAIR_METRICS, Run
from validation.files.read_files import read_files
from validation.files.run_file import RunFile
from validation.judgement.judge import judge
from validation.report.json_report import as_json

TREATED = ["clean", *["perturbed"] * 29, *["control"] * 5]
PEERS = ["peer"] * 34


@pytest.fixture(scope="module", params=["treated", pytest.param("peers", marks=pytest.mark.long)])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFile, RunFile]:
    folder = tmp_path_factory.mktemp(request.param)
    roles = TREATED if request.param == "treated" else PEERS
    packed = log_packed(folder / "packed.db", roles=roles, steps=40)
    files, rejected = read_files([packed, unpacked_copy(packed, folder / "rows.db")])
    assert rejected == []
    one, other = files
    assert (len(one.packed_layers), len(one.layers)) == (120, 0)
    assert (len(other.packed_layers), len(other.layers)) == (0, 120 * len(roles))
    assert one.damage == other.damage == ()
    return one, other


def assert_same_runs(one: Run, other: Run) -> None:
    assert [*one.experts] == [*other.experts]
    assert len(one.layers) == len(other.layers) > 0
    assert one.steps.tolist() == other.steps.tolist()
    places = [(one.experts, other.experts), *zip(one.layers, other.layers, strict=True)]
    for mine, theirs in places:
        assert {e: x.role for e, x in mine.items()} == {e: x.role for e, x in theirs.items()}
        for e, name in ((e, name) for e in mine for name in METRICS):
            np.testing.assert_allclose(mine[e][name], theirs[e][name], rtol=1e-12, atol=1e-14)
    for mine, theirs in zip(one.pairs, other.pairs, strict=True):
        assert {*mine} == {*theirs}
        for pair, name in ((pair, name) for pair in mine for name in PAIR_METRICS):
            np.testing.assert_array_equal(mine[pair][name], theirs[pair][name])


def test_both_forms_hold_the_same_numbers(both: tuple[RunFile, RunFile]):
    one, other = load_runs(both)
    assert_same_runs(one, other)
    assert one.isolated is not None
    assert other.isolated is not None
    assert_same_runs(one.isolated, other.isolated)
    assert next(iter(one.layers[0].values())).one_of_many


def report(file: RunFile) -> Any:
    """The report without what names the file, and numbers to nine digits."""
    found = json.loads(json.dumps(as_json(judge([file]))), parse_float=lambda text: f"{float(text):.9g}")
    for run in found["runs"]:
        for name in ("file", "name", "sha256", "id", "run"):
            run.pop(name, None)
    return json.loads(json.dumps(found).replace(file.id, "RUN"))


def test_the_verdict_of_a_run_is_the_same_in_both_forms(both: tuple[RunFile, RunFile]):
    one, other = map(report, both)
    assert one == other
    assert one["status"] != "invalid"


def test_a_file_with_both_forms_is_read_as_rows(both: tuple[RunFile, RunFile]):
    """A trainer that logs only some experts in its first steps has rows there, and arrays later."""
    one, other = both
    early = other.layers.filter(pc.less(other.layers["step"], 100))
    late = one.packed_layers.filter(pc.greater_equal(one.packed_layers["step"], 100))
    mixed = replace(other, layers=early, packed_layers=late)
    assert_same_runs(*load_runs([mixed, other]))
