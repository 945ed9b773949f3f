"""The controlled reading: what is left after routing share, gradient scale, autocorrelation and a control's showing.

docs/verdict.md has the rules and where they come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from validation import series
from validation.as_written import as_written
from validation.claims import (
    CONFOUNDED,
    INCONCLUSIVE,
    REFUTED,
    SUPPORTED,
    Claim,
    Premise,
    Thresholds,
    exp,
    finite,
    interval,
)
from validation.series import Expert, Run
from validation.statistics import Array, Estimate, lag_corrected, mean_weights, third_weights

DECLINE = 0.95  # a sure loss of less than this share is not worth a word
KEPT_REACH = 10.0  # how far from its estimate the interval of the share that is kept is looked for


@dataclass(frozen=True)
class _Evidence:
    """What the claims of one expert are decided from: rows after the warm-up in which every series is usable."""

    run: Run
    expert: Expert
    limits: Thresholds
    rows: NDArray[np.bool_]
    collinear: bool
    control: str | None
    """What the divergence was compared to, in words; None if nothing in the selection can tell its cause."""
    divergence: dict[str, Array]
    """By tier log ratios, or {"direction": 1 - cosine}, beyond routing and beyond the control."""
    above_noise: Array | None
    """Direction beyond what two halves of the same batch differ by; None where that was not measured."""

    @property
    def directional(self) -> bool:
        """Whether divergence is judged by direction, 1 - cosine, or by the size of each tier."""
        return "direction" in self.divergence

    @property
    def margin(self) -> float:
        """What a divergence must exceed to count, on the scale of its series."""
        return self.limits.divergence_direction if self.directional else math.log(self.limits.divergence_ratio)

    def estimate(
        self, series_T: Array, weights: Array | None = None, *, trend: int = 1, alpha: float | None = None
    ) -> Estimate:
        kept = series_T[self.rows]
        return lag_corrected(
            kept[np.isfinite(kept)],
            mean_weights() if weights is None else weights,
            trend=trend,
            alpha=alpha or self.limits.alpha,
        )

    def claim(
        self, name: str, status: str, because: str, estimate: Estimate | None, unit: str, threshold: float
    ) -> Claim:
        because = f"each expert measured alone, {because}" if self.run.source == "isolated" else because
        bare = Claim(name, status, because, self.expert.expert, self.run.run, unit=unit, threshold=threshold)
        bare = replace(bare, source=self.run.source)
        if estimate is None:
            return bare
        return replace(
            bare,
            estimate=finite(estimate.mid),
            low=finite(estimate.low),
            high=finite(estimate.high),
            points=estimate.points,
            effective=finite(estimate.effective),
            detectable=finite(estimate.detectable),
        )


def controlled(run: Run, expert: Expert, runs: Sequence[Run], limits: Thresholds) -> list[Claim]:
    """The three claims about one perturbed expert; `runs` is the whole selection: a sham in it can be the control.

    Isolated gradients are preferred where the probe has measured enough of them: the routing has no part in them.
    """
    naive = {claim.claim: claim.status == SUPPORTED for claim in as_written(run, expert, limits)}
    alone = run.isolated
    if alone is not None and expert.expert in alone.experts and 0 in alone.experts:
        twin = alone.experts[expert.expert]
        if _usable(alone, twin, limits).sum() >= limits.min_points:
            run, expert = alone, twin
            runs = [other.isolated for other in runs if other.isolated is not None]
    usable = _usable(run, expert, limits)
    series_by_name = series.divergence(run, expert)
    control, baseline = _control(run, expert, runs)
    if baseline is not None:
        series_by_name = {name: values - baseline[name] for name, values in series_by_name.items()}
    evidence = _Evidence(
        run=run,
        expert=expert,
        limits=limits,
        rows=usable,
        collinear=series.is_collinear(run, expert.expert),
        control=control,
        divergence=series_by_name,
        above_noise=series.above_noise(run, expert),
    )
    awake = _awakening(evidence, naive["awakening"])
    diverged = _divergence(evidence, naive["divergence"])
    claims = [awake, diverged, _sustainment(evidence, diverged, naive["sustainment"])]
    return [_never_for_a_sham(claim) for claim in claims] if run.is_sham else claims


def _never_for_a_sham(claim: Claim) -> Claim:
    """Whatever a run shows in which nothing was perturbed, the perturbation did not cause."""
    if claim.status != SUPPORTED:
        return claim
    because = (
        f"{claim.because}; but nothing was perturbed in this sham run, so it is the routing's or the setup's doing"
    )
    return replace(claim, status=INCONCLUSIVE, because=because)


def _usable(run: Run, expert: Expert, limits: Thresholds) -> NDArray[np.bool_]:
    """Rows after the warm-up in which both experts have every tier."""
    return expert.tiers_usable & run.experts[0].tiers_usable & run.after_warmup(limits.warmup)


def _control(run: Run, expert: Expert, runs: Sequence[Run]) -> tuple[str | None, dict[str, Array] | None]:
    """What says how much of a divergence the perturbation did not cause: in words, and as series to subtract."""
    controls = [series.divergence(run, control) for control in run.of_role("control")]
    if controls:
        return "the control expert", {name: np.mean([c[name] for c in controls], axis=0) for name in controls[0]}
    if run.config.get("routing") == "frozen":
        return "frozen routing", None
    sham = _sham_of(run, runs)
    if sham is not None and expert.expert in sham.experts:
        twin = series.divergence(sham, sham.experts[expert.expert])
        own = series.divergence(run, expert)
        if twin.keys() == own.keys():
            return f"sham run {sham.run}", {name: series.align(sham.steps, twin[name], run.steps) for name in own}
    return None, None


def _sham_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """An unperturbed run of the same config in the selection, of the same seed if there is one."""
    free = {"perturbation_scale", "seed"}

    def rest(other: Run) -> dict[str, object]:
        return {name: value for name, value in other.config.items() if name not in free}

    if not run.config or run.is_sham:
        return None
    shams = [other for other in runs if other.is_sham and rest(other) == rest(run)]
    return min(shams, key=lambda other: other.seed != run.seed, default=None)


def _awakening(e: _Evidence, naive: bool) -> Claim:
    """Did the bottom tier gain more than the middle tier? The middle tier is the control it carries in itself."""
    clean, margin = e.run.experts[0], math.log(e.limits.awakening_ratio)
    effect = e.estimate(series.did(e.expert, clean))
    seen = exp(e.estimate(series.raw(e.expert, clean)).mid) if effect.points else math.nan
    beyond = f"{exp(effect.mid):.2f}x {interval(effect, exp)}"
    enough = effect.points >= e.limits.min_points
    if e.collinear:
        status = CONFOUNDED if naive or seen > e.limits.awakening_ratio else REFUTED
        because = (
            f"the bottom norms differ {seen:.2f}x only as the routing shares do: every expert's gradient is its share "
            "times one common gradient" + (f"; beyond that the bottom weights receive {beyond}" if enough else "")
        )
    elif not enough:
        status, because = INCONCLUSIVE, _too_short(e, effect)
    elif effect.low > margin:
        status = SUPPORTED
        because = f"bottom weights receive {beyond} the gradient, beyond what the middle tier gained"
    elif effect.high < margin and seen > e.limits.awakening_ratio:
        status = CONFOUNDED
        because = (
            f"the bottom norm is {seen:.2f}x expert 0's, but the middle tier gained as much: "
            f"{beyond} is left for the bottom weights"
        )
    elif effect.high < margin:
        status = REFUTED
        because = f"bottom weights receive {beyond} the gradient, no more than the middle tier"
    else:
        status, because = INCONCLUSIVE, _undecided(e, effect, f"{beyond}", e.limits.awakening_ratio)
    return e.claim("awakening", status, because, effect.transformed(exp), "ratio", e.limits.awakening_ratio)


def _divergence(e: _Evidence, naive: bool) -> Claim:
    """Does any tier's gradient, or the direction, differ beyond routing and beyond the control?"""
    directional, margin = e.directional, e.margin
    threshold = e.limits.divergence_direction if directional else e.limits.divergence_ratio
    unit = "1 - cosine" if directional else "ratio"
    # Three tiers are three chances to be wrong.
    estimates = {name: e.estimate(s, alpha=e.limits.alpha / len(e.divergence)) for name, s in e.divergence.items()}
    if not directional:
        estimates = {name: estimate.absolute() for name, estimate in estimates.items()}
    name, effect = max(estimates.items(), key=lambda item: item[1].low)
    highest = max(estimate.high for estimate in estimates.values())
    what = "direction" if directional else f"{name} norm"
    size = f"{effect.mid:.2f} {interval(effect)}" if directional else f"{exp(effect.mid):.2f}x {interval(effect, exp)}"
    beyond = f"beyond routing and {e.control}" if e.control else "beyond routing"
    if e.collinear:
        status = CONFOUNDED if naive else REFUTED
        because = (
            "one merge per batch gives every expert the same gradient times its routing share: whether the experts "
            "would learn differently cannot be seen in it; train with --set merge=example control_experts=1"
        )
    elif effect.points < e.limits.min_points:
        status, because = INCONCLUSIVE, _too_short(e, effect)
    elif effect.low > margin and e.above_noise is not None and e.estimate(e.above_noise).low <= 0:
        status = INCONCLUSIVE
        because = f"the {what} differs by {size}, no more than between two halves of the same batch: that may be noise"
    elif effect.low > margin and e.control:
        status, because = SUPPORTED, f"the {what} differs by {size} {beyond}"
    elif effect.low > margin:
        status = INCONCLUSIVE
        because = (
            f"diverged {beyond}, {what} {size}, but nothing here shows that the perturbation caused it; "
            "add control_experts: 1, or upload the sham run (perturbation_scale: 0) beside this one"
        )
    elif highest < margin:
        status = CONFOUNDED if naive else REFUTED
        because = f"{beyond}, the gradients differ by less than {threshold:g} ({what} {size})"
    else:
        status, because = INCONCLUSIVE, _undecided(e, effect, f"{what} {size}", threshold)
    return e.claim("divergence", status, because, effect if directional else effect.transformed(exp), unit, threshold)


def _sustainment(e: _Evidence, diverged: Claim, naive: bool) -> Claim:
    """Is at least half of the first third's divergence left in the last third?"""
    share = e.limits.sustained_share
    if e.collinear:
        status = CONFOUNDED if naive else REFUTED
        because = "nothing to sustain: in one common gradient no divergence can be seen"
        return e.claim("sustainment", status, because, None, "ratio", share)
    values = _oriented(e)
    first, last = (e.estimate(values, third_weights(*w), trend=3) for w in ((1, 0), (0, 1)))
    # A divergence that collapses early may be too small on average to be supported: it was there all the same.
    began = e.control is not None and first.low > e.margin and first.points >= e.limits.min_points
    if diverged.status != SUPPORTED and not began:
        because = f"nothing to sustain: divergence is {diverged.status}"
        return e.claim("sustainment", diverged.status, because, None, "ratio", share)
    if e.run.steps[-1] + 1 < e.run.planned_steps / 2:
        return e.claim("sustainment", INCONCLUSIVE, "less than half of the planned run is there", None, "ratio", share)
    retained = e.estimate(values, third_weights(-share, 1), trend=3)
    change = e.estimate(values, third_weights(-1, 1), trend=3)
    ratio = last.mid / first.mid if first.mid else math.nan
    told = f"the last third keeps {ratio:.0%} of the first third's divergence"
    if retained.low > 0 and last.low > 0 and diverged.status != SUPPORTED:
        status, because = INCONCLUSIVE, f"{told}, but divergence itself is {diverged.status}"
    elif retained.low > 0 and last.low > 0:
        status, because = SUPPORTED, told + (", though it declines" if change.high < 0 and ratio < DECLINE else "")
    elif change.high < 0 and ratio < share:
        status, because = REFUTED, f"{told}: it collapses towards the clean expert"
    else:
        status, because = INCONCLUSIVE, f"{told}, too uncertain to say that more than {share:.0%} is kept"
    low, high = _kept_share(e, values, ratio)
    bounds = replace(last, mid=ratio, low=low, high=high, detectable=math.inf)
    return e.claim("sustainment", status, because, bounds, "ratio", share)


def _kept_share(e: _Evidence, values: Array, ratio: float) -> tuple[float, float]:
    """The shares s for which "the last third keeps s of the first" is not ruled out: the rule itself, inverted.

    As Fieller's interval for a ratio: both thirds are uncertain, and the interval agrees with the claim's status.
    """

    def ruled_out(share: float) -> int:
        kept = e.estimate(values, third_weights(-share, 1), trend=3)
        return (kept.low > 0) - (kept.high < 0)

    def bound(outer: float) -> float:
        if not ruled_out(outer):
            return math.inf if outer > ratio else -math.inf
        inner = ratio
        for _ in range(20):
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if ruled_out(middle) else (middle, outer)
        return inner

    return bound(ratio - KEPT_REACH), bound(ratio + KEPT_REACH)


def _oriented(e: _Evidence) -> Array:
    """One series of divergence: direction as it is; of sizes the mean over tiers, each turned to be positive.

    Two tiers that differ in opposite ways would otherwise cancel.
    """
    if e.directional:
        return e.divergence["direction"]
    oriented = []
    for values in e.divergence.values():
        kept = values[e.rows]
        oriented.append(values * np.sign(np.nansum(kept)))
    return np.asarray(np.mean(oriented, axis=0))


def premise(run: Run, limits: Thresholds) -> Premise:
    """Dormancy of the clean expert's bottom weights."""
    values = series.dormancy(run)[run.after_warmup(limits.warmup)]
    effect = lag_corrected(values[np.isfinite(values)], mean_weights(), alpha=limits.alpha)
    margin, size = math.log(limits.dormant_ratio), f"{exp(effect.mid):.2f}x {interval(effect, exp)}"
    told = f"a bottom weight of the clean expert receives {size} the gradient of a middle one"
    if not effect.points:
        status, because = (
            "undecided",
            "too few usable rows to say whether the clean expert's bottom weights are dormant",
        )
    elif effect.high < margin:
        status, because = "dormant", f"{told}: there is something to awaken"
    elif effect.low > margin:
        status, because = "not_dormant", f"{told}: it is not dormant, so there is nothing to awaken"
    else:
        status, because = "undecided", f"{told}: too uncertain to call it dormant or not"
    low, mid, high = (finite(exp(v)) for v in (effect.low, effect.mid, effect.high))
    return Premise(run.run, status, mid, low, high, limits.dormant_ratio, because)


def _too_short(e: _Evidence, effect: Estimate) -> str:
    missing = int(e.limits.min_points) - effect.points
    return f"{effect.points} usable logged steps after the warm-up; {missing} more are needed to decide"


def _undecided(e: _Evidence, effect: Estimate, size: str, threshold: float) -> str:
    note = (
        "" if effect.effective >= 4 else "; neighbouring steps are so alike that only an enormous effect could decide"
    )
    return f"{size} reaches to both sides of {threshold:g}{note}"
