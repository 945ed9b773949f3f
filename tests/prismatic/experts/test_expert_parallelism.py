"""Experts that two processes share or hold are measured as in one process: a real torchrun with gloo, started once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.run_file import events, rows
from tests.support.two_processes import ROOT
from tests.support.two_processes_experts import CASES, Case, build, loop

pytestmark = pytest.mark.long  # two processes of PyTorch

TABLES = {
    "layers": "SELECT * FROM layers ORDER BY step, source, layer, expert",
    "pairs": "SELECT * FROM pairs ORDER BY step, layer, expert, other",
    "dynamics": "SELECT * FROM dynamics ORDER BY step",
    "tiers": "SELECT * FROM tiers ORDER BY layer, tier",
    "experts": "SELECT * FROM experts ORDER BY expert",
}


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two_processes_experts.py once and return its folder."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "--module", "tests.support.two_processes_experts", str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, Path]:
    """Train each mixture by one process, once for all ways to train it by two."""
    folder = tmp_path_factory.mktemp("alone")
    found: dict[tuple, Path] = {}
    for case in CASES.values():
        if key(case) not in found:
            found[key(case)] = folder / f"{len(found)}.db"
            loop(found[key(case)], case, build(case))
    return found


def key(case: Case) -> tuple:
    return case.mixture.model, case.mixture.experts, case.roles, case.sequences, case.perturbed


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", CASES)
def test_two_processes_measure_what_one_measures(together: Path, alone: dict[tuple, Path], name: str, table: str):
    found = rows(together / f"{name}.db", TABLES[table])
    expected = rows(alone[key(CASES[name])], TABLES[table])
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        one.pop("wall_time", None), other.pop("wall_time", None)
        measured = {column for column, value in other.items() if isinstance(value, float)}
        # Products of halves are differences: their error is relative to the squares of the norms, 1e-3 to 1 here.
        assert {c: one[c] for c in measured} == pytest.approx({c: other[c] for c in measured}, rel=1e-5, abs=1e-7)
        assert {k: v for k, v in one.items() if k not in measured} == {k: other[k] for k in other.keys() - measured}


@pytest.mark.parametrize("name", CASES)
def test_nothing_goes_wrong_on_the_way(together: Path, alone: dict[tuple, Path], name: str):
    assert events(together / f"{name}.db") == events(alone[key(CASES[name])])
    assert {row["source"] for row in rows(together / f"{name}.db", TABLES["layers"])} == {"merged", "isolated"}


@pytest.mark.parametrize("name", CASES)
def test_histograms_count_every_entry_once(together: Path, alone: dict[tuple, Path], name: str):
    query = "SELECT step, layer, expert, tier, sum(count) AS count FROM histograms GROUP BY 1, 2, 3, 4"
    found, expected = rows(together / f"{name}.db", query), rows(alone[key(CASES[name])], query)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=2)


def test_processes_that_hold_different_experts_under_one_name_are_refused_with_the_remedy(together: Path):
    for rank in range(2):
        refused = json.loads((together / f"refused-{rank}.json").read_text())
        assert f"process {1 - rank} holds other weights than process {rank} as expert 0 of layer 0" in refused["local"]
        assert "Store them as DTensors with Shard(0)" in refused["local"]
        assert refused["same"] == "not refused"


def test_a_sharded_model_is_not_perturbed(together: Path):
    for rank in range(2):
        refused = json.loads((together / f"refused-{rank}.json").read_text())["perturbing"]
        assert "is sharded, so no process has whole experts. Perturb or upcycle the model before fully_shard" in refused


def test_a_process_that_holds_a_part_of_an_expert_is_refused_with_the_remedy(together: Path):
    refused = json.loads((together / "refused-0.json").read_text())
    assert "is sharded inside its experts: a process holds (36, 32) of (72, 32)" in refused["parts"]
