"""Run files for the tests of reports: seeds at several doses, hostile words, and a run beside its baseline."""

import json
import sqlite3
from contextlib import closing

import pytest

from tests.support.report_readers import judged
from tests.support.simulated_runs import named, simulated_run, study, write
from validation.files.sources import read_sources
from validation.judgement.judge import judge
from validation.report import figures

HOSTILE = "</script><script>alert(1)</script> ![x](http://example.invalid) ]]> `|` @all \ud800\x00\x1b[2J\u202e\n# H"
THREE_EACH = {"perturbed": 3, "control": 3}
EFFECTS = {"awakening": 1.5, "divergence": 0.5}


@pytest.fixture
def undrawn(monkeypatch):
    """Write reports without charts, which take a third of a second each."""
    monkeypatch.setattr(figures, "can_draw", lambda: False)


@pytest.fixture(scope="session")
def seeds(tmp_path_factory):
    """Eighteen runs: six seeds at three scales, of which one is a sham. Perturbed runs end with a lower loss."""
    folder = tmp_path_factory.mktemp("seeds")
    made = {"control": 1, "steps": 150}
    runs = study(6, scale=1.0, twins=True, awakening=1.5, divergence=0.5, **made)
    runs += study(6, scale=2.0, awakening=2.0, divergence=1.0, **made)
    runs.sort(key=lambda run: (run.facts["config.perturbation_scale"], run.seed))
    names = [f"{int(run.facts['config.perturbation_scale'])}{run.seed}abcdef0" for run in runs]

    def loss(seed, scale):
        return 2.3 + 0.1 * seed - 0.01 * scale * (1 + seed % 2)

    return tuple(
        write(run, folder / f"{name}.db", run_hash=name, held_out_loss=loss(run.seed, int(name[0])))
        for run, name in zip(runs, names, strict=True)
    )


@pytest.fixture(scope="session")
def study_of_positives(tmp_path_factory):
    """Six seeds, the sham run of each, and a positive control of each."""
    folder = tmp_path_factory.mktemp("positives")
    runs = study(6, twins=True, control=1, steps=150)
    positives = study(6, awakening=1.5, control=1, steps=150, config={"positive_control": 1.5})
    runs += [named(run, f"positive {run.id}") for run in positives]
    return tuple(write(run, folder / f"{run.id}.db", run_hash=f"{n:02}abcdef0") for n, run in enumerate(runs))


@pytest.fixture(scope="session")
def unfinished(tmp_path_factory):
    """Six seeds that have reached two thirds of their planned end."""
    folder = tmp_path_factory.mktemp("unfinished")
    runs = study(6, control=1, steps=150, facts={"planned_steps": 200}, **EFFECTS)
    return tuple(write(run, folder / f"{run.id}.db", run_hash=f"{run.seed}0abcdef0") for run in runs)


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
    before = write(simulated_run(**EFFECTS, **THREE_EACH), tmp_path / "before.db")
    after = write(simulated_run(divergence=0.5, seed=1, **THREE_EACH), tmp_path / "after.db")
    return before, after


@pytest.fixture
def kinds(seeds, study_of_positives, unfinished, hostile, tmp_path):
    """Judgements of many kinds, by name."""
    runs = {
        "single": simulated_run(**EFFECTS, **THREE_EACH),
        "few experts": simulated_run(control=1),
        "no control": simulated_run(),
        "one gradient": simulated_run(collinear=True, routing_ratio=2.3),
        "short": simulated_run(steps=3, **THREE_EACH),
    }
    files = {name: [write(run, tmp_path / f"{name}.db")] for name, run in runs.items()}
    files |= {"doses": seeds, "study": seeds[:12], "positives": study_of_positives, "unfinished": unfinished}
    files |= {"two seeds": seeds[6:8], "shams": seeds[:6], "one positive": study_of_positives[-1:], "nothing": ()}
    return {name: judged(*some) for name, some in files.items()} | {"hostile": hostile}
