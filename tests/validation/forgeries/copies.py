"""Forgeries of runs: copies under other seeds, twins that are none, and experts of two runs in one file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.validation.forgeries.experts import levels
from tests.validation.forgeries.forging import (
    Study,
    columns_of,
    declare,
    each,
    forgery,
    listed,
    mean_gain,
    of_role,
    opened,
    raise_bottom,
    scale,
    set_facts,
    sql,
)


def copy_best(paths: list[Path], noise: float = 0.0) -> None:
    """Overwrite every file with a copy of the one of the largest gain, under its own seed, experts changed by noise."""
    model = max(paths, key=mean_gain)
    for seed, path in enumerate(paths):
        if path != model:
            shutil.copy(model, path)
            declare(path, config__seed=seed)
            sql(path, f"UPDATE experts SET seed = {seed} WHERE expert")
            if noise:
                _add_noise(path, noise, seed)


def _add_noise(path: Path, sd: float, seed: int) -> None:
    """Multiply each expert, and its bottom tier, by factors of its own, in every column."""
    for expert, (whole, bottom) in enumerate(np.exp(np.random.default_rng(seed).normal(0, sd, (7, 2)))):
        scale(path, whole, expert)
        raise_bottom(path, bottom, [expert])


@forgery("one run under six seeds", "copied_run", "no_replicas", base="spread")
def copies(study: Study) -> None:
    copy_best(study.runs)


@forgery("one run under six seeds, with a little noise", "no_replicas", base="spread")
def noisy_copies(study: Study) -> None:
    copy_best(study.runs, 0.005)


@forgery("one run under six seeds, with as much noise as chance makes", "no_replicas", base="spread")
def very_noisy_copies(study: Study) -> None:
    copy_best(study.runs, 0.07)


@forgery("one run three times", "no_replicas", base="spread")
def same_seed(study: Study) -> None:
    *_, model = ranked = sorted(study.runs, key=mean_gain)
    for number, worst in enumerate(ranked[:2]):
        shutil.copy(model, worst)
        set_facts(worst, note=number)  # so that no two files are equal


@forgery("controls of another seed, the lowest", "copied_run", base="spread")
def controls_of_another_run(study: Study) -> None:
    height = {path: np.mean([levels(path)[e] for e in of_role(path, "control")]) for path in study.runs}
    *others, model = sorted(study.runs, key=height.__getitem__, reverse=True)
    for path in others:
        with opened(path) as db:
            controls = of_role(path, "control")
            copied = ", ".join(f"{name} = model.{name}" for e in controls for name in columns_of(db, e))
            db.execute("ATTACH ? AS other", (str(model),))
            db.execute(f"DELETE FROM layers WHERE expert IN ({listed(controls)})")
            db.execute(f"INSERT INTO layers SELECT * FROM other.layers WHERE expert IN ({listed(controls)})")
            db.execute(f"UPDATE dynamics SET {copied} FROM other.dynamics AS model WHERE model.step = dynamics.step")


@forgery("one sham run under six seeds, the lowest", "copied_run", "no_replicas", base="twins")
def sham_copies(study: Study) -> None:
    model = min(study.twins, key=mean_gain)
    for seed, path in enumerate(study.twins):
        if path != model:
            shutil.copy(model, path)
            declare(path, config__seed=seed)


@forgery("sham runs of other seeds, so that the differences agree", "no_replicas", base="twins", effect="certainty")
def twins_of_other_seeds(study: Study) -> None:
    """Pair runs and sham runs by the rank of their gains."""
    seeds = {path: seed for seed, path in enumerate(study.runs)}
    study.runs, study.twins = sorted(study.runs, key=mean_gain), sorted(study.twins, key=mean_gain)
    for path, twin in zip(study.runs, study.twins, strict=True):
        declare(twin, config__seed=seeds[path])


@forgery(
    "sham runs that are the runs, their bottom gradients lowered",
    "copied_run",
    "sham_runs_show_an_effect",
    base="twins",
)
def twins_are_runs(study: Study) -> None:
    for path, twin in zip(study.runs, study.twins, strict=True):
        shutil.copy(path, twin)
        declare(twin, config__perturbation_scale=0.0)
        raise_bottom(twin, 0.7, of_role(twin, "perturbed"))


@forgery("sham runs whose bottom gradients were lowered", "sham_runs_show_an_effect", base="twins")
def twins_lowered(study: Study) -> None:
    each(study.twins, lambda path: raise_bottom(path, 0.5, of_role(path, "perturbed")))
