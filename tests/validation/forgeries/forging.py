"""The tools of a forger: copies of a study's run files, SQL to change them, and the naive reading to be fooled.

A forgery is a function that changes the files of a study. FORGERIES holds all of them, for one test to judge.
"""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from prismatic.contract.checksums import FACT
from prismatic.contract.run_hash import run_hash
from prismatic.contract.thresholds import Thresholds
from prismatic.runfile.checksums import record_checksums
from validation.analysis.intervals import Interval, fieller, student

LEVELS = {
    "bottom": "ifnull(bottom_to_middle, ln(bottom_norm / middle_norm))",
    "size": "ln(norm)",
    "direction": "1 - gradient_cosine",
    "share": "ln(norm / routing_weight)",
}
"""Of one expert in one row of `layers`."""
CONTRAST = "avg(CASE role WHEN 'perturbed' THEN {0} END) - avg(CASE role WHEN 'control' THEN {0} END)"


@dataclass
class Study:
    """The run files of a study, and the thresholds that its author gives to `check --set`."""

    runs: list[Path]
    twins: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    """Files that `check` gets and that the author wants nobody to count."""
    changes: dict[str, float] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """Every file that `check` gets."""
        return [*self.runs, *self.twins, *self.others]


@dataclass(frozen=True)
class Forgery:
    """A way to make a null look like a yes."""

    title: str
    forge: Callable[[Study], None]
    base: str
    """The study that is forged."""
    effect: str
    """The result to improve: an effect of `naive`, its certainty, or the verdict without diagnostics, lax or not."""
    named: frozenset[str]
    """The names of the forgery: diagnostics, reasons of claims, objections to thresholds. Empty if nothing can."""


FORGERIES: list[Forgery] = []


def forgery(
    title: str, *named: str, base: str = "turned", effect: str = "bottom"
) -> Callable[[Callable[[Study], None]], Callable[[Study], None]]:
    """Return a decorator that adds a function to FORGERIES; see Forgery."""

    def add(forge: Callable[[Study], None]) -> Callable[[Study], None]:
        FORGERIES.append(Forgery(title, forge, base, effect, frozenset(named)))
        return forge

    return add


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a run file, with the functions ln(x) and gauss() (the same normal numbers each time) in its SQL.

    A file with checksums gets those of its new contents: anybody can compute them.
    """
    with closing(sqlite3.connect(path)) as db:
        db.create_function("ln", 1, lambda x: math.log(x) if x is not None and x > 0 else None)
        db.create_function("gauss", 0, partial(random.Random(0).gauss, 0, 1))
        yield db
        if db.execute("SELECT 1 FROM run WHERE key = ?", (FACT,)).fetchone():
            record_checksums(db)
        db.commit()


def sql(path: Path, *statements: str) -> None:
    """Run statements on a run file."""
    with opened(path) as db:
        for statement in statements:
            db.execute(statement)


def set_facts(path: Path, **facts: object) -> None:
    """Write facts of a run; a double underscore stands for a point, and None removes the fact."""
    with opened(path) as db:
        for name, value in facts.items():
            key = name.replace("__", ".")
            db.execute("DELETE FROM run WHERE key = ?", (key,))
            if value is not None:
                db.execute("INSERT INTO run VALUES (?, ?)", (key, json.dumps(value)))


def declare(path: Path, **facts: object) -> None:
    """Write facts of a run as `set_facts`, and the hash that belongs to its options then."""
    set_facts(path, **facts)
    with opened(path) as db:
        found = {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM run")}
    options = {key.removeprefix("config."): value for key, value in found.items() if key.startswith("config.")}
    set_facts(path, run_hash=run_hash(options, str(found["corpus_sha256"])))


def gains(path: Path, source: str = "isolated", effect: str = "bottom") -> dict[int, float]:
    """Return by step how far perturbed experts lie above control experts, mean over layers."""
    complete = " AND half_product IS NOT NULL" if source == "isolated" else ""
    rows = f"FROM layers JOIN experts USING (expert) WHERE source = ?{complete} GROUP BY step ORDER BY step"
    with opened(path) as db:
        found = db.execute(f"SELECT step, {CONTRAST.format(LEVELS[effect])} {rows}", (source,)).fetchall()
    return {step: gain for step, gain in found if gain is not None}


def remove_rows(path: Path, steps: Iterable[int], tables: Sequence[str] = ("dynamics", "layers")) -> None:
    """Remove these steps from tables; from `layers` alone only those of isolated gradients."""
    probed = "" if "dynamics" in tables else " AND source = 'isolated'"
    sql(path, *(f"DELETE FROM {table} WHERE step IN ({listed(steps)}){probed}" for table in tables))


def raise_bottom(path: Path, factor: float, experts: Sequence[int], when: str = "1") -> None:
    """Multiply the bottom gradients of some experts in some rows, and every column that follows from them."""
    gain, share = math.log(factor), factor * factor - 1
    with opened(path) as db:
        db.execute(
            f"UPDATE layers SET norm = sqrt(norm * norm + bottom_norm * bottom_norm * {share}), "
            f"bottom_norm = bottom_norm * {factor}, bottom_to_middle = bottom_to_middle + {gain} "
            f"WHERE {when} AND expert IN ({listed(experts)})"
        )
        for e in experts:
            whole, bottom = f"expert_{e}_{'perturbed' if e else 'clean'}_norm", f"expert_{e}_bottom_norm"
            db.execute(
                f"UPDATE dynamics SET {whole} = sqrt({whole} * {whole} + {bottom} * {bottom} * {share}), "
                f"{bottom} = {bottom} * {factor}, expert_{e}_bottom_to_middle = expert_{e}_bottom_to_middle + {gain} "
                f"WHERE {when}"
            )


def scale(path: Path, factor: float, expert: int) -> None:
    """Multiply all gradients of an expert, and every column that follows from them."""
    norms = ("top_norm", "bottom_norm", "middle_norm")
    layers = {**dict.fromkeys((*norms, "norm", "half_product_clean"), factor), "half_product": factor**2}
    wide = dict.fromkeys((*norms, "perturbed_norm" if expert else "clean_norm"), factor)
    with opened(path) as db:
        multiplied = ", ".join(f"{name} = {name} * {by}" for name, by in layers.items())
        db.execute(f"UPDATE layers SET {multiplied} WHERE expert = {expert}")
        if expert == 0:
            db.execute(f"UPDATE layers SET half_product_clean = half_product_clean * {factor}")
        multiplied = ", ".join(f"expert_{expert}_{name} = expert_{expert}_{name} * {by}" for name, by in wide.items())
        db.execute(f"UPDATE dynamics SET {multiplied}")


def of_role(path: Path, role: str) -> list[int]:
    """Return the experts of a role."""
    with opened(path) as db:
        return [expert for (expert,) in db.execute("SELECT expert FROM experts WHERE role = ?", (role,))]


def columns_of(db: sqlite3.Connection, expert: int) -> list[str]:
    """Return the columns of an expert in `dynamics`."""
    return [row[1] for row in db.execute("PRAGMA table_info(dynamics)") if row[1].startswith(f"expert_{expert}_")]


def naive(study: Study, effect: str) -> Interval:
    """Return what a reader without rules finds: Student's interval over the files, of the mean over all their rows.

    Rows of isolated gradients are read where a file has any, and the sham run of the same place is subtracted. Files
    without any number are skipped. `kept`: the share of the gain in the first third that the last third has.
    """
    values_S2 = np.array([_naive(path, effect) for path in study.runs])
    if study.twins:
        values_S2 = values_S2 - np.array([_naive(twin, effect) for twin in study.twins])
    values_S2 = values_S2[np.isfinite(values_S2).all(axis=1)]
    return fieller(values_S2, 0.05) if effect == "kept" else student(values_S2.mean(axis=1), 0.05)


def _naive(path: Path, effect: str) -> tuple[float, float]:
    """Return the mean of an effect over the rows of a file, of the first third and of the last."""
    level = {"kept": "bottom", "share": "share" if _merges_parameters(path) else "size"}.get(effect, effect)
    rows = [*(gains(path, effect=level) or gains(path, "merged", level) or _gains_of_means(path)).values()]
    third = len(rows) // 3
    if effect != "kept":
        return (float(np.mean(rows)),) * 2 if rows else (np.nan, np.nan)
    return float(np.mean(rows[:third])), float(np.mean(rows[-third:]))


def _merges_parameters(path: Path) -> bool:
    with opened(path) as db:
        return bool(db.execute("SELECT value = '\"parameters\"' FROM run WHERE key = 'mixture'").fetchone()[0])


def _gains_of_means(path: Path) -> dict[int, float]:
    """Return the same as `gains`, from the means over layers."""
    experts = {role: of_role(path, role) for role in ("perturbed", "control")}
    mean = {
        role: f"({' + '.join(f'expert_{e}_bottom_to_middle' for e in own)}) / {len(own)}"
        for role, own in experts.items()
    }
    with opened(path) as db:
        found = db.execute(f"SELECT step, {mean['perturbed']} - {mean['control']} FROM dynamics").fetchall()
    return {step: gain for step, gain in found if gain is not None}


def margin(effect: str) -> float:
    """Return the smallest effect that counts."""
    limits = Thresholds()
    ratio = limits.awakening_ratio if effect == "bottom" else limits.divergence_ratio
    return {"direction": limits.divergence_direction, "kept": limits.sustained_share}.get(effect, math.log(ratio))


def mean_gain(path: Path) -> float:
    """Return the mean of `gains` over all rows."""
    return float(np.mean([*gains(path).values()]))


def worst(rows: dict[int, float], share: float) -> list[int]:
    """Return the steps with the smallest values, this share of all."""
    return sorted(rows, key=rows.__getitem__)[: round(share * len(rows))]


def listed(numbers: Iterable[int]) -> str:
    """Return numbers for an IN clause."""
    return ", ".join(map(str, numbers))


def each(paths: Sequence[Path], forge: Callable[[Path], None]) -> None:
    """Forge every file in the same way."""
    for path in paths:
        forge(path)
