"""One claim over several runs: the run is the unit of replication, never the step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from validation.claims import (
    CONFOUNDED,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SUPPORTED,
    Claim,
    Thresholds,
    combine,
    counted,
    exp,
    finite,
    interval,
)
from validation.series import Run
from validation.statistics import across_runs

NAMED_OPTIONS = 5


def across(name: str, claims: Sequence[Claim], runs: Sequence[Run], limits: Thresholds) -> Claim:
    """The claim over all runs, from each run's own; inconclusive unless they are replicas of one experiment."""
    own = [claim for claim in claims if claim.claim == name and claim.expert is None and claim.run]
    invalid = [claim for claim in own if claim.status == INVALID]
    if len(invalid) == len(own):
        return Claim(name, INVALID, "no run carries a verdict")
    if invalid:
        # Leaving them out would judge the survivors alone.
        return Claim(
            name, INCONCLUSIVE, f"{len(invalid)} of {counted(len(own), 'run')} carry no verdict; see why first"
        )
    confounded = sum(claim.status == CONFOUNDED for claim in own)
    if confounded:
        because = f"{confounded} of {counted(len(own), 'run')} are confounded, and averaging does not mend that"
        return Claim(name, CONFOUNDED, because)
    obstacle = _no_replicas(runs)
    if obstacle:
        return Claim(name, INCONCLUSIVE, f"{obstacle}; see each run")
    return _pooled(name, own, limits)


def _no_replicas(runs: Sequence[Run]) -> str | None:
    """Why these runs are not the same experiment with different seeds; None if they are."""
    if any(not run.config for run in runs):
        return "not every file says how its run was made, so they are not averaged"
    names = sorted({name for run in runs for name in run.config} - {"seed", "device"})
    differing = [name for name in names if len({str(run.config.get(name)) for run in runs}) > 1]
    if differing:
        others = f" and {len(differing) - NAMED_OPTIONS} more options" if len(differing) > NAMED_OPTIONS else ""
        return f"the runs differ in {', '.join(differing[:NAMED_OPTIONS])}{others} and are not averaged"
    if any(run.seed is None for run in runs):
        return "not every run says its seed, so copies cannot be told from replicas"
    twice = [seed for seed, count in Counter(run.seed for run in runs).items() if count > 1]
    return f"seed {twice[0]} is there more than once, and the same seed again is the same run" if twice else None


def _pooled(name: str, own: Sequence[Claim], limits: Thresholds) -> Claim:
    """Student's t interval over the runs' estimates, and the status that both it and every run support."""
    values = [claim.estimate for claim in own if claim.estimate is not None]
    if len(values) < limits.min_runs:
        missing = counted(int(limits.min_runs) - len(values), "more seed")
        return Claim(name, INCONCLUSIVE, f"{counted(len(values), 'run')} with an estimate; at least {missing} needed")
    unit, threshold = own[0].unit, own[0].threshold or 0.0
    log = unit == "ratio" and min(values) > 0
    effect = across_runs(np.log(values) if log else np.asarray(values), alpha=limits.alpha)
    effect = effect.transformed(exp) if log else effect
    status = combine([claim.status for claim in own])
    if (status == SUPPORTED and not effect.low > threshold) or (status == REFUTED and not effect.high < threshold):
        status = INCONCLUSIVE
    because = f"over {len(values)} runs {effect.mid:.3g} {interval(effect)}, threshold {threshold:g}"
    low, high = finite(effect.low), finite(effect.high)
    return Claim(name, status, because, None, None, finite(effect.mid), low, high, unit, threshold, len(values))
