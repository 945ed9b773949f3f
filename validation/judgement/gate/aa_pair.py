"""The A/A pair: the comparison of a claim made once more where nothing was changed, so that it must find nothing.

The kind is the first that the runs at hand allow:

- sham_twins: sham runs against those of the same seeds and another scale (0.001 and 0), as runs against their twins;
- sham_runs: in each sham run, the experts that were not perturbed against its control experts;
- seed_halves: the runs of every second seed against the others. The claim `distinct` has no other kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prismatic.contract.thresholds import SHAM_SCALE, Thresholds
from validation.analysis.cohort import SCALE, Cohort, MeasuredRun, options_beside_treatment
from validation.analysis.effects import DIRECTION
from validation.analysis.experiment import effects_of_shams, margin_of, measure
from validation.analysis.intervals import Interval, welch
from validation.analysis.statistics import finite
from validation.text import pluralize, spaced
from validation.verdict.claims import CLAIMS, DISTINCT, Component
from validation.verdict.groups import Group
from validation.verdict.words.wording import COSINE, PAIRS, RATIO, UNITS, measured, shown

SHAM_TWINS, SHAM_RUNS, SEED_HALVES = "sham_twins", "sham_runs", "seed_halves"
CLEAR, FAILS, TOO_FEW_SEEDS = "clear", "fails", "too_few_seeds"
WORDS = {
    SHAM_TWINS: "sham runs against their sham twins",
    SHAM_RUNS: "unperturbed experts compared with control experts of sham runs",
    SEED_HALVES: "every second seed against the others",
}
FEWEST = 2  # units of an interval


@dataclass(frozen=True)
class AAPair:
    """The result of an A/A pair: it fails if an effect of nothing surely exceeds its margin."""

    kind: str
    result: str
    """clear, fails or too_few_seeds. A clear pair finds nothing, which is less than to rule out an effect as large."""
    because: str
    seeds: int
    """Seeds of the sham runs, or of the runs in both halves."""
    runs: tuple[str, ...]
    effects: tuple[Component, ...]
    """The effects of nothing, each with its interval at alpha over their number, in the unit of its claim."""


def aa_pair(group: Group, claim: str, cohort: Cohort, thresholds: Thresholds) -> AAPair:
    """Return the A/A pair of a claim about a group of runs."""
    members = [each for each in cohort.runs if each.run.id in group.runs]
    shams = [] if claim == DISTINCT else _shams_of(members[0], cohort)
    of_shams = _sham_twins(shams, thresholds) or _sham_runs(members, cohort, thresholds) if shams else None
    return of_shams or _seed_halves(group, claim, members, thresholds)


def _shams_of(each: MeasuredRun, cohort: Cohort) -> list[MeasuredRun]:
    """Return every valid sham run with the options of a run, of each scale."""
    options = options_beside_treatment(each.run)
    known = [sham for sham in cohort.runs if sham.run.is_sham and sham.run.config and cohort.carries_verdict(sham)]
    return [sham for sham in known if options_beside_treatment(sham.run) == options]


def _sham_twins(shams: Sequence[MeasuredRun], thresholds: Thresholds) -> AAPair | None:
    """Return the pair of two sham runs of each seed; None without enough seeds that have two."""
    by_seed: dict[int | None, list[MeasuredRun]] = {}
    for sham in sorted(shams, key=lambda sham: sham.run.option(SCALE) or 0.0, reverse=True):
        by_seed.setdefault(sham.run.seed, []).append(sham)
    pairs = [some for some in by_seed.values() if len(some) == 2]
    if len(pairs) < thresholds.min_seeds:
        return None
    changed = [_as_if_perturbed(larger) for larger, _ in pairs]
    m = measure(changed, Cohort([*changed, *(smaller for _, smaller in pairs)]), thresholds, {})
    found = {name: effect.interval(m.alpha / len(m.effects)) for name, effect in m.effects.items()}
    if not m.twins or not found:
        return None
    return _judged(SHAM_TWINS, found, [each.run.id for pair in pairs for each in pair], m.units, thresholds)


def _as_if_perturbed(sham: MeasuredRun) -> MeasuredRun:
    """Return the run as if a little more had been perturbed, so that the other sham run of its seed is its twin."""
    facts = {**sham.run.facts, f"option.{SCALE}": 2 * SHAM_SCALE}
    return replace(sham, run=replace(sham.run, facts=facts))


def _sham_runs(members: Sequence[MeasuredRun], cohort: Cohort, thresholds: Thresholds) -> AAPair | None:
    """Return the pair inside of each sham run; None if these have no control experts."""
    effects = effects_of_shams(members, cohort, replace(thresholds, min_seeds=FEWEST))
    if not effects:
        return None
    found = {name: effect.interval(thresholds.alpha / len(effects)) for name, effect in effects.items()}
    runs = [sham.run.id for sham in cohort.shams_of(members[0].run)]
    return _judged(SHAM_RUNS, found, runs, min(interval.units for interval in found.values()), thresholds)


def _seed_halves(group: Group, claim: str, members: Sequence[MeasuredRun], thresholds: Thresholds) -> AAPair:
    """Return the pair of every second seed against the others."""
    values: dict[str, dict[str, float]] = {}
    for name in [claim] if claim in group.values else CLAIMS[:2]:
        for run, parts in group.values.get(name, {}).items():
            values.setdefault(run, {}).update(parts)
    in_order = sorted(members, key=lambda each: each.run.seed or 0)
    runs = [each.run.id for each in in_order if each.run.id in values]
    common = [name for name in values[runs[0]] if all(name in values[run] for run in runs)] if runs else []
    found = {}
    for name in common:
        x_S = np.array([values[run][name] for run in runs], dtype=np.float64)
        found[name] = welch(x_S[::2], x_S[1::2], thresholds.alpha / len(common))
    return _judged(SEED_HALVES, found, runs, len(runs), thresholds)


def _judged(
    kind: str, found: Mapping[str, Interval], runs: Sequence[str], seeds: int, thresholds: Thresholds
) -> AAPair:
    """Return the result. An effect of nothing counts on both sides of its margin."""
    margins = {name: margin_of(DIRECTION if name == PAIRS else name, thresholds) for name in found}
    beyond = [name for name, interval in found.items() if interval.beyond(margins[name], two_sided=True)]
    enough = bool(found) and seeds >= thresholds.min_seeds
    result = TOO_FEW_SEEDS if not enough else FAILS if beyond else CLEAR
    effects = tuple(_component(name, interval, margins[name]) for name, interval in found.items())
    return AAPair(kind, result, _sentence(kind, result, found, beyond, seeds), seeds, tuple(runs), effects)


def _component(name: str, interval: Interval, margin: float) -> Component:
    """Return an effect in the unit in which people read it. A missing end is unbounded."""
    low, high = (finite(shown(name, end)) if interval.bounded else None for end in (interval.low, interval.high))
    limit = shown(name, -margin if interval.mid < 0 else margin)
    unit = COSINE if name == PAIRS else UNITS.get(name, RATIO)
    return Component(name, finite(shown(name, interval.mid)), low, high, unit, limit)


def _sentence(kind: str, result: str, found: Mapping[str, Interval], beyond: Sequence[str], seeds: int) -> str:
    """Return the result in words, with the effects that fail, or else all of them."""
    if not found:
        return "nothing could be compared in the A/A pair"
    named = {name: interval for name, interval in found.items() if name in beyond} or found
    numbers = ", ".join(f"{spaced(name)} {measured(name, each, signed=True)}" for name, each in named.items())
    words = {
        CLEAR: "no effect is surely beyond its margin where nothing was changed",
        FAILS: "an effect is surely beyond its margin where nothing was changed",
        TOO_FEW_SEEDS: "too few seeds to tell",
    }
    return f"{WORDS[kind]}, {pluralize(seeds, 'seed')}: {words[result]} ({numbers})"
