"""Forgeries that nothing in the files shows: whole files rewritten without a contradiction, and files left out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.validation.forgeries.copies import copy_best
from tests.validation.forgeries.experts import levels
from tests.validation.forgeries.forging import (
    Study,
    columns_of,
    declare,
    each,
    forgery,
    mean_gain,
    of_role,
    opened,
    raise_bottom,
    sql,
)
from tests.validation.forgeries.plan import END, stop_early


@forgery("every bottom gradient of the perturbed experts multiplied, in all columns")
def bottom_multiplied(study: Study) -> None:
    each(study.runs, lambda path: raise_bottom(path, 1.35, of_role(path, "perturbed")))


@forgery("the numbers of two experts exchanged in all columns, so that the highest is a perturbed one", base="spread")
def experts_exchanged(study: Study) -> None:
    for path in study.runs:
        of = levels(path)
        low = sorted(of_role(path, "perturbed"), key=of.__getitem__)
        high = sorted(of_role(path, "control"), key=of.__getitem__, reverse=True)
        for one, other in zip(low, high, strict=True):
            if of[one] < of[other]:
                _exchange(path, one, other)


def _exchange(path: Path, one: int, other: int) -> None:
    with opened(path) as db:
        for old, new in ((one, -1), (other, one), (-1, other)):
            db.execute(f"UPDATE layers SET expert = {new} WHERE expert = {old}")
        pairs = zip(columns_of(db, one), columns_of(db, other), strict=True)
        db.execute(f"UPDATE dynamics SET {', '.join(f'{a} = {b}, {b} = {a}' for a, b in pairs)}")


@forgery("the best six of fifteen seeds", base="many")
def best_seeds(study: Study) -> None:
    study.runs = sorted(study.runs, key=mean_gain)[-6:]


@forgery("one run under six seeds, with noise and other weights, and the hash computed again", base="spread")
def invented_seeds(study: Study) -> None:
    copy_best(study.runs, 0.07)
    for seed, path in enumerate(study.runs):
        sql(path, f"UPDATE tiers SET hash = '{seed}' || hash")


@forgery("a positive control declared a real run, and the hash computed again", base="positive", effect="verdict")
def positive_control_hashed(study: Study) -> None:
    each(study.runs, partial(declare, config__positive_control=1.0))


@forgery("the planned end moved to where it looks good, and the hash computed again", base="brief")
def end_moved_hashed(study: Study) -> None:
    each(study.runs, stop_early)
    each(study.runs, partial(declare, planned_steps=END + 1, config__steps=END + 1))
