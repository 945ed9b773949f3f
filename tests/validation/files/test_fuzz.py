"""Thousands of damaged and forged run files: each is refused in a clear sentence, or read as it is."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import fuzz
from validation.files.limits import ReadLimits
from validation.files.read_files import read_files
from validation.judgement.judge import judge
from validation.report.json_report import as_json

# `make fuzz` runs 10,000; every test run includes the first of them.
MUTANTS = int(os.environ.get("PRISMATIC_MUTANTS", "250"))
BATCH = 250  # files for one child process
LIMITS = ReadLimits(seconds=8)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[fuzz.Original]:
    return fuzz.originals(tmp_path_factory.mktemp("originals"))


@pytest.mark.parametrize("batch", range(-(-MUTANTS // BATCH)))
def test_no_mutant_is_accepted_with_wrong_numbers_or_refused_without_a_reason(
    tmp_path: Path, sources: list[fuzz.Original], batch: int
) -> None:
    made = fuzz.mutants(min(BATCH, MUTANTS - batch * BATCH), batch, sources)
    files = {tmp_path / f"{place:04}-{mutant.kind}.db": mutant for place, mutant in enumerate(made)}
    for path, mutant in files.items():
        path.write_bytes(mutant.data)
    started = time.monotonic()
    found, rejected = read_files(files, private=files, limits=LIMITS)
    assert time.monotonic() - started < 10 + len(files) * 0.5
    unanswered = set(files) - {one.path for one in (*found, *rejected)}
    assert all(files[path].whole for path in unanswered), "only the same run in two archives may be read once"
    plain = fuzz.plainly(run.path for run in found if not files[run.path].whole)
    complaints = {
        answer.path.name: words
        for answer in (*found, *rejected)
        if (words := fuzz.complaint(files[answer.path], answer, plain.get(answer.path)))
    }
    assert not complaints
    assert len(found) > len(files) / 10, "too few mutants are read to show anything"
    assert len(rejected) > len(files) / 10, "too few mutants are refused to show anything"
    judgement = judge(found[:: max(1, len(found) // 20)])
    assert "unexpected" not in {finding.id for finding in judgement.findings}
    json.dumps(as_json(judgement), allow_nan=False)


def test_every_kind_of_mutation_is_made_and_the_same_for_the_same_seed(
    tmp_path: Path, sources: list[fuzz.Original]
) -> None:
    one, other = (fuzz.mutants(120, 7, each) for each in (sources, fuzz.originals(tmp_path)))
    assert all(mutant.data == same.data for mutant, same in zip(one, other, strict=True))
    kinds = Counter(mutant.kind.split("_")[0] for mutant in one)
    assert {kind.__name__.split("_")[0] for kind in (*fuzz.BY_BYTES, *fuzz.BY_SQL)} <= kinds.keys()


def test_the_check_itself_finds_wrong_numbers(tmp_path: Path, sources: list[fuzz.Original]) -> None:
    """Change numbers after reading: the check must fail."""
    path = tmp_path / "a.db"
    path.write_bytes(sources[1].data)
    (run,), _ = read_files([path], private=[path])
    mutant = fuzz.Mutant("flips_in_rows", sources[1].data, sources[1], frozenset(sources[1].rows))
    plain = fuzz.plainly([path])[path]
    assert fuzz.complaint(mutant, run, plain) is None
    place = run.wide.column_names.index("expert_1_top_norm")
    wrong = run.wide.set_column(place, "expert_1_top_norm", run.wide["expert_2_top_norm"])
    for changed, words in (
        ({"wide": wrong}, "expert_1_top_norm is"),
        ({"wide": run.wide.take(list(range(59, -1, -1)))}, "steps are not in order"),
        ({"wide": run.wide.slice(1)}, "other steps"),
        ({"wide": run.wide.drop_columns(["expert_0_top_norm"])}, "lost in silence"),
        ({"layers": run.layers.slice(3)}, "layers has"),
        ({"facts": {}}, "was lost in silence"),
    ):
        assert words in str(fuzz.complaint(mutant, replace(run, **changed), plain))
    assert "in silence" in str(fuzz.complaint(mutant, run, {**plain, "integrity": ["Page 5 is never used"]}))
    others = {**plain, "dynamics": [{**row, "loss": 0.25} for row in plain["dynamics"]]}
    same_loss = run.wide.set_column(run.wide.column_names.index("loss"), "loss", [[0.25] * 60])
    blind = replace(run, wide=same_loss)
    assert "though nothing touched it" in str(fuzz.complaint(mutant, blind, others))
