"""Imported runs: the command on a source, and what its run file must hold."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from prismatic.cli import main
from prismatic.contract.schema import TIERS
from tests.support.tracker_logs import STEPS, logged

MAP = """
mixture = "top_k"
planned_steps = 31
[metrics]
"moe/expert.{i}/{tier}" = "expert_{i}_{tier}_norm"
"router/p{i}" = "expert_{i}_routing_weight"
"train/loss" = "loss"
[options]
seed = "{seed}"
perturbation_scale = 1.0
"""


def rows(path: Path, query: str = "SELECT * FROM dynamics ORDER BY step") -> list[dict]:
    """Return the rows of a run file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def facts(path: Path) -> dict:
    """Return the facts of a run file."""
    return {row["key"]: json.loads(row["value"]) for row in rows(path, "SELECT * FROM run")}


def imported(source: Path, tmp_path: Path, *options: str) -> Path:
    """Import a source that holds one run, and return the run file."""
    (tmp_path / "map.toml").write_text(MAP)
    code = main(
        ["import", str(source), "--map", str(tmp_path / "map.toml"), "--runs", str(tmp_path / "runs"), *options]
    )
    assert code == 0
    (path,) = (tmp_path / "runs").rglob("dynamics.db")
    return path


def assert_is_what_was_logged(path: Path, *, seed: int = 0, rel: float = 1e-12) -> None:
    """Assert that a run file holds what `tracker_logs.logged` gave to a tracker."""
    found = [row for row in rows(path) if row["step"] in STEPS]
    assert [row["step"] for row in found] == STEPS
    for row in found:
        theirs = logged(row["step"], seed)
        assert row["loss"] == pytest.approx(theirs["train/loss"], rel=rel)
        for i in range(2):
            assert row[f"expert_{i}_routing_weight"] == theirs[f"router/p{i}"]
            for tier in TIERS:
                assert row[f"expert_{i}_{tier}_norm"] == pytest.approx(theirs[f"moe/expert.{i}/{tier}"], rel=rel)
    assert rows(path, "SELECT role FROM experts ORDER BY expert") == [{"role": "clean"}, {"role": "perturbed"}]
    assert {"mixture": "top_k", "planned_steps": 31}.items() <= facts(path).items()
