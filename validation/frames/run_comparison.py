"""Several runs side by side: courses by group, doses, twins without perturbation, and the table of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd
from scipy import special

from validation.analysis.controls import options_of
from validation.analysis.run import Run
from validation.analysis.statistics import across_runs
from validation.judgement.judge import Judgement
from validation.query.questions import ask
from validation.verdict.claims import Claim, combine
from validation.verdict.groups import POSITIVE, SCALE, Dose, Group

POINTS = 60
SPARK_POINTS = 30
TEXTS = ("run", "file", "verdict", "group", "kind", "merge", "routing")  # what is searched for words


@dataclass(frozen=True)
class Course:
    """A series that runs are compared by. log: kept as the logarithm of a ratio."""

    title: str
    unit: str
    meaning: str
    log: bool = False


COURSES = {
    "bottom": Course(
        "Bottom norm ratio",
        "× clean expert",
        "Bottom-tier gradient norm over the clean expert's, as it stands on the chart: the routing share is part of it",
        log=True,
    ),
    "divergence": Course("Divergence", "loss / weight", "The documented score: it scales with loss and routing share"),
    "direction": Course("Direction", "1 - cosine", "1 - cosine to the clean expert's gradient; 0 is parallel"),
    "routing": Course("Routing share", "share", "Mean share of the batch of a perturbed expert"),
    "loss": Course("Loss", "nats per token", "Training loss of the logged batches"),
}


def courses(
    con: duckdb.DuckDBPyConnection, runs: Sequence[str], *, points: int = POINTS, shared: bool = True
) -> pd.DataFrame:
    """Every course of some runs: rows of run, place (of the window), middle (step) and a column for each course."""
    found = ask(con, "compare_series", runs=list(runs), points=points, shared=shared)
    table: pd.DataFrame = found.to_pandas()
    return table


def bands(data: pd.DataFrame, group_of: Mapping[str, str], course: str, *, alpha: float = 0.05) -> pd.DataFrame:
    """Per group and window the mean over its runs, Student's t interval and the number of runs.

    No interval where there is one run.
    """
    data = data.assign(group=data["run"].map(group_of)).dropna(subset=["group", course])
    by_window = data.groupby(["group", "place", "middle"])[course]
    table = by_window.agg(mean="mean", sd="std", runs="count").reset_index()
    runs = table["runs"].to_numpy()
    half = special.stdtrit(np.maximum(runs - 1, 1), 1 - alpha / 2) * table["sd"] / np.sqrt(runs)
    half = half.where(runs > 1)
    return table.assign(low=table["mean"] - half, high=table["mean"] + half).drop(columns="sd")


def sparklines(con: duckdb.DuckDBPyConnection, runs: Sequence[str], course: str) -> pd.Series:
    """By run, its course in at most 30 points, in one question for all of them."""
    data = courses(con, runs, points=SPARK_POINTS, shared=False).dropna(subset=[course])
    shown = np.exp(data[course]) if COURSES[course].log else data[course]
    lines: pd.Series = shown.groupby(data["run"]).agg(list)
    return lines


def of_doses(dose: Dose, groups: Sequence[Group], runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What Page's test was asked of: rows of scale, seed and value; and over seeds, scale, mean, low and high."""
    by_run = {run.id: run for run in runs}
    rows = []
    for group in groups:
        if group.ladder == dose.options and group.role != POSITIVE:
            for name, parts in group.values.get(dose.claim, {}).items():
                run = by_run[name]
                if run.seed in dose.seeds:
                    scale = run.number(f"config.{SCALE}") or 0.0
                    rows.append({"scale": scale, "seed": run.seed, "value": float(np.mean(list(parts.values())))})
    each = pd.DataFrame(rows).sort_values(["seed", "scale"], ignore_index=True)
    means = []
    for scale, values in each.groupby("scale")["value"]:
        over = across_runs(values.to_numpy())
        means.append({"scale": scale, "mean": over.mid, "low": over.low, "high": over.high, "seeds": len(values)})
    return each, pd.DataFrame(means).replace([np.inf, -np.inf], np.nan)


def twins(judgement: Judgement) -> pd.DataFrame:
    """Each run in which something was perturbed beside its sham run: same options, same seed, nothing perturbed.

    A row per pair and claim that has an estimate in both.
    """
    shams = {(options_of(run), run.seed): run.id for run in judgement.runs if run.is_sham and run.config}
    own = {(c.run, c.name): c for c in judgement.verdict.controlled.claims if c.run and c.expert is None}
    rows = []
    for run in judgement.runs:
        sham = None if run.is_sham or run.seed is None or not run.config else shams.get((options_of(run), run.seed))
        if sham is not None:
            rows += [
                _pair(run, sham, own[run.id, name], own[sham, name])
                for name in ("awakening", "divergence")
                if own[run.id, name].unit == own[sham, name].unit
            ]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["run", "sham", "claim"])


def _pair(run: Run, sham: str, treated: Claim, untreated: Claim) -> dict[str, object]:
    return {
        "run": run.id,
        "sham": sham,
        "seed": run.seed,
        "scale": run.number(f"config.{SCALE}"),
        "claim": treated.name,
        "estimate": treated.estimate,
        "low": treated.low,
        "high": treated.high,
        "of the sham": untreated.estimate,
        "unit": treated.unit,
        "threshold": treated.threshold,
        "status": treated.status,
        "compared to": (treated.control or "nothing").replace("_", " "),
    }


def letters(count: int) -> list[str]:
    """Short names for groups: A to Z, then A1 to Z1, and so on. Long ones may be cut, and then be alike."""
    return [chr(65 + place % 26) + (str(place // 26) if place >= 26 else "") for place in range(count)]


def overview(judgement: Judgement) -> pd.DataFrame:
    """A row for every run: what it is, its group and its verdict. One question for all of them."""
    table: pd.DataFrame = ask(judgement.con, "runs_table").to_pandas()
    statuses: dict[str, dict[str, str]] = {}
    for claim in judgement.verdict.controlled.claims:
        if claim.run and claim.expert is None:
            statuses.setdefault(claim.run, {})[claim.name] = claim.status
    verdicts = {run: combine(list(own.values())) for run, own in statuses.items()}
    named = zip(letters(len(judgement.verdict.groups)), judgement.verdict.groups, strict=True)
    groups = {run: (letter, group.role.replace("_", " ")) for letter, group in named for run in group.runs}
    table["verdict"] = table["run"].map(verdicts)
    table["group"] = table["run"].map({run: group for run, (group, _) in groups.items()})
    table["kind"] = table["run"].map({run: role for run, (_, role) in groups.items()})
    order = ["run", "verdict", "perturbation_scale", "seed", "group", "kind"]
    return table[[*order, *(name for name in table.columns if name not in order)]]


def filtered(table: pd.DataFrame, words: str, verdicts: Iterable[str], kinds: Iterable[str]) -> pd.DataFrame:
    """The runs that hold every word somewhere, and have one of the verdicts and of the kinds, if any are named."""
    kept = table
    for word in words.lower().split():
        found = [kept[name].astype(str).str.lower().str.contains(word, regex=False).to_numpy() for name in TEXTS]
        kept = kept[np.logical_or.reduce(found)]
    for column, chosen in (("verdict", list(verdicts)), ("kind", list(kinds))):
        kept = kept[kept[column].isin(chosen)] if chosen else kept
    return kept


def ordered(table: pd.DataFrame, by: str, *, descending: bool) -> pd.DataFrame:
    """Sorted by a column; as they were chosen where there is none of that name."""
    if by in table:
        return table.sort_values(by, ascending=not descending, kind="stable")
    return table.iloc[::-1] if descending else table
