"""Rows of treated runs beside their sham runs: the effect that each shows by itself."""

from __future__ import annotations

import pandas as pd

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import SCALE, Cohort, MeasuredRun
from validation.analysis.experiment import measure
from validation.judgement.judge import Judgement
from validation.verdict.experiment_claims import values_of
from validation.verdict.words.wording import RATIO, UNITS, shown


def sham_pair_rows(judgement: Judgement) -> pd.DataFrame:
    """Return a row for each treated run, its sham run with the same seed, and an effect that both have by themselves.

    An effect by itself is perturbed minus control experts in one run, before the sham run is subtracted.
    """
    thresholds = judgement.verdict.thresholds
    pairs = [(each, twin) for each in judgement.measured if (twin := judgement.cohort.twin_of(each.run)) is not None]
    rows = [
        {
            "run": each.run.id,
            "sham": twin.run.id,
            "seed": each.run.seed,
            "scale": each.run.option(SCALE),
            "claim": claim,
            "effect": effect,
            "treated": shown(effect, value),
            "of the sham": shown(effect, untreated[claim, effect]),
            "unit": UNITS.get(effect, RATIO),
        }
        for each, twin in pairs
        for treated, untreated in [(_own_effects(each, thresholds), _own_effects(twin, thresholds))]
        for (claim, effect), value in treated.items()
        if (claim, effect) in untreated
    ]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["run", "sham", "claim"])


def _own_effects(each: MeasuredRun, thresholds: Thresholds) -> dict[tuple[str, str], float]:
    """Return by claim and effect what a run shows by itself, on the scale of its levels."""
    found = values_of(measure([each], Cohort([]), thresholds, {}))
    return {
        (claim, effect): value
        for claim, of_runs in found.items()
        for values in of_runs.values()
        for effect, value in values.items()
    }
