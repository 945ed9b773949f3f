"""Run files for the tests of reports: seeds at several doses, hostile words, and a run beside its baseline."""

import json
import sqlite3
from contextlib import closing

import pytest

from tests.support.simulated_runs import simulated_run, write
from validation.files.sources import read_sources
from validation.judgement.judge import judge
from validation.report import figures

HOSTILE = "</script><script>alert(1)</script> ![x](http://example.invalid) ]]> `|` @all \ud800\x00\x1b[2J\u202e\n# H"


@pytest.fixture
def undrawn(monkeypatch):
    """Write reports without charts, which take a third of a second each."""
    monkeypatch.setattr(figures, "can_draw", lambda: False)


@pytest.fixture(scope="session")
def seeds(tmp_path_factory):
    """Nine runs: three seeds at three scales, of which one is a sham."""
    folder = tmp_path_factory.mktemp("seeds")
    files = []
    for scale in (0.0, 1.0, 2.0):
        for seed in range(3):
            run = simulated_run(
                seed=seed + int(100 * scale), awakening=1 + scale / 2, divergence=scale / 2, control=True, steps=200
            )
            about = {"config.seed": seed, "config.perturbation_scale": scale, "run_hash": f"{int(scale)}{seed}abcdef0"}
            files.append(write(run, folder / f"{scale}-{seed}.db", **about))
    return tuple(files)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """A run and a sham run whose names and options hold markup, control characters and line breaks."""
    folder = tmp_path_factory.mktemp("hostile")
    files = []
    for number_, scale in enumerate((1.0, 0.0)):
        file = write(simulated_run(seed=number_, steps=150), folder / f"{number_}.db", **{"config.seed": number_})
        with closing(sqlite3.connect(file)) as db, db:
            facts = {"config.merge": HOSTILE + str(scale), "exit_state": HOSTILE, "torch": HOSTILE, "host": HOSTILE}
            facts |= {"config.perturbation_scale": scale, "planned_steps": 9e9, "config.huge": float("1e308") * 10}
            rows = [(key, json.dumps(value)) for key, value in facts.items()]
            db.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", rows)
        files.append((file, HOSTILE))
    return judge(*read_sources(files))


@pytest.fixture
def pair(tmp_path):
    """A run that supports all three claims, and the same experiment where awakening is gone."""
    before = write(simulated_run(awakening=1.5, divergence=0.5, control=True), tmp_path / "before.db")
    after = write(simulated_run(divergence=0.5, control=True, seed=1), tmp_path / "after.db")
    return before, after
