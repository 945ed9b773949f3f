"""Forgeries of rows: chosen, moved, emptied, multiplied or repeated, so that those which suit are left."""

from __future__ import annotations

import random
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from tests.validation.forgeries.forging import (
    Study,
    declare,
    each,
    forgery,
    gains,
    listed,
    of_role,
    opened,
    raise_bottom,
    remove_rows,
    set_facts,
    sql,
    worst,
)
from tests.validation.forgeries.trainings import STEPS, WARMUP
from validation.analysis.bins import BINS


@forgery("a third of the rows removed, those of the smallest gain", "rows_missing")
def third_removed(study: Study) -> None:
    each(study.runs, lambda path: remove_rows(path, worst(gains(path), 1 / 3)))


@forgery("as many rows of the smallest gain removed as a bin of time may lack", "rows_missing", base="noisy rows")
def fifth_removed(study: Study) -> None:
    for path in study.runs:
        rows = gains(path)
        for start, end in pairwise(np.linspace(WARMUP, STEPS, BINS + 1)):
            stretch = {step: gain for step, gain in rows.items() if start <= step < end}
            remove_rows(path, sorted(stretch, key=stretch.__getitem__)[: len(stretch) // 5])


@forgery("the best row of every ten kept", "rows_missing")
def best_of_ten(study: Study) -> None:
    for path in study.runs:
        rows = [*gains(path).items()]
        for start in range(0, len(rows), 10):
            remove_rows(path, worst(dict(rows[start : start + 10]), 0.9))


@forgery("the best row of every ten kept, and log_freq declared ten times larger", "off_grid")
def best_of_ten_declared(study: Study) -> None:
    best_of_ten(study)
    each(study.runs, partial(declare, log_freq=40, config__log_freq=40, config__probe_freq=40))


@forgery("the best row of every ten kept, and no frequency declared", "rows_missing")
def best_of_ten_undeclared(study: Study) -> None:
    best_of_ten(study)
    each(study.runs, undeclare)


undeclare = partial(declare, log_freq=None, config__log_freq=None, config__probe_freq=None)


@forgery("dense logging while a brief effect lasts", "rows_missing", base="brief")
def dense_early(study: Study) -> None:
    each(study.runs, lambda path: remove_rows(path, [step for step in gains(path) if step > 150 and step % 16]))


@forgery("dense logging while a brief effect lasts, declared at the lower frequency", "off_grid", base="brief")
def dense_early_declared(study: Study) -> None:
    dense_early(study)
    each(study.runs, partial(declare, log_freq=16, config__log_freq=16, config__probe_freq=16))


@forgery("dense logging while a brief effect lasts, and no frequency declared", "rows_missing", base="brief")
def dense_early_undeclared(study: Study) -> None:
    dense_early(study)
    each(study.runs, undeclare)


@forgery("rows in another order, so that a fading effect lasts", "wall_time_falls", base="fading", effect="kept")
def shuffled(study: Study) -> None:
    for path in study.runs:
        steps = sorted(gains(path))
        _renumber(path, dict(zip(steps, random.Random(0).sample(steps, len(steps)), strict=True)))


def _renumber(path: Path, number: dict[int, int]) -> None:
    with opened(path) as db:
        for table in ("dynamics", "layers"):
            for sign in (-1, 1):  # in two steps, because a step must be unique at any moment
                pairs = [(sign * new if sign < 0 else new, old if sign < 0 else -new) for old, new in number.items()]
                db.executemany(f"UPDATE {table} SET step = ? WHERE step = ?", pairs)


@forgery("the later rows of a run named the earlier ones", "wall_time_falls", base="fading", effect="kept")
def reversed_time(study: Study) -> None:
    for path in study.runs:
        steps = sorted(gains(path))
        _renumber(path, dict(zip(steps, reversed(steps), strict=True)))


@forgery("probe rows removed, those of the smallest gain", "rows_missing")
def probe_rows_chosen(study: Study) -> None:
    each(study.runs, lambda path: remove_rows(path, worst(gains(path), 0.4), tables=["layers"]))


@forgery(
    "all probe rows removed, where the router prefers perturbed experts", "missing_probe", base="null", effect="size"
)
def probe_deleted(study: Study) -> None:
    each(study.runs, lambda path: sql(path, "DELETE FROM layers WHERE source = 'isolated'"))


@forgery("all probe rows removed, and no probe declared", "facts_disagree", base="null", effect="size")
def probe_undeclared(study: Study) -> None:
    probe_deleted(study)
    each(study.runs, partial(set_facts, config__probe_freq=0))


@forgery("zeros in the rows of the smallest gain", "zero_tier", "rows_missing")
def zeros(study: Study) -> None:
    _empty_worst(study, "bottom_norm = 0, bottom_to_middle = NULL", 0.4)


@forgery("NaN in the rows of the smallest gain", "missing_values", "rows_missing")
def nan_of_one(study: Study) -> None:
    _empty_worst(study, "bottom_norm = NULL, bottom_to_middle = NULL", 0.4)


@forgery(
    "an optional column emptied in the rows of the smallest gain", "missing_values", "rows_missing", base="noisy rows"
)
def optional_emptied(study: Study) -> None:
    _empty_worst(study, "half_product = NULL", 0.19)


def _empty_worst(study: Study, change: str, share: float) -> None:
    for path in study.runs:
        chosen = listed(worst(gains(path), share))
        sql(path, f"UPDATE layers SET {change} WHERE source = 'isolated' AND step IN ({chosen})")


@forgery("an optional column emptied in most rows, so that another column counts", "missing_values")
def optional_mostly_emptied(study: Study) -> None:
    for path in study.runs:
        chosen = listed(worst(gains(path), 0.6))
        raise_bottom(path, 1.3, of_role(path, "perturbed"), f"step IN ({chosen})")
        sql(path, f"UPDATE layers SET bottom_to_middle = NULL WHERE source = 'isolated' AND step IN ({chosen})")


@forgery("one row in ten multiplied by twenty", "rows_missing")
def multiplied(study: Study) -> None:
    each(study.runs, lambda path: raise_bottom(path, 20, of_role(path, "perturbed"), "step % 40 = 0"))


@forgery("steps logged twice, with better values the second time", "duplicate_steps")
def repeated(study: Study) -> None:
    for path in study.runs:
        rows = gains(path)
        low = worst(rows, 0.6)
        _repeat(path, dict(zip(low, 2 * sorted({*rows} - {*low}), strict=False)))


def _repeat(path: Path, instead: dict[int, int]) -> None:
    """Log steps again with the numbers of other steps, in tables without a key."""
    with opened(path) as db:
        for table in ("layers", "dynamics"):
            db.execute(f"CREATE TABLE copied AS SELECT * FROM {table}")
            db.execute(f"DROP TABLE {table}")
            db.execute(f"ALTER TABLE copied RENAME TO {table}")
            names = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] != "step"]
            values = ", ".join(names)
            for step, other in instead.items():
                repeated = f"SELECT {step}, {values} FROM {table} WHERE step = {other}"
                db.execute(f"INSERT INTO {table} (step, {values}) {repeated}")
        db.execute("UPDATE dynamics SET wall_time = step")
