"""The controlled reading: what is left after routing share, gradient scale, autocorrelation and a control's showing.

docs/verdict.md has the rules and where they come from.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis import series
from validation.analysis.controls import Cohort
from validation.analysis.evidence import Evidence, evidence_of
from validation.analysis.mixtures import beyond, common_factor, elsewhere, missing_control, parallel, unseen_direction
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Batches, Estimate, batched, more_points, third_weights
from validation.verdict.as_written import as_written
from validation.verdict.claims import (
    BY_CHANCE,
    CONFOUNDED,
    INCONCLUSIVE,
    REFUTED,
    SUPPORTED,
    Claim,
    Premise,
    exp,
    finite,
    interval,
)

DECLINE = 0.95  # a sure loss of less than this share is not worth a word
KEPT_REACH = 10.0  # how far from its estimate the interval of the share that is kept is looked for


def controlled(run: Run, expert: Expert, cohort: Cohort, thresholds: Thresholds) -> list[Claim]:
    """The three claims about one perturbed expert."""
    naive = {claim.name: claim.status == SUPPORTED for claim in as_written(run, expert, thresholds)}
    evidence = evidence_of(run, expert, cohort, thresholds)
    awake = _awakening(evidence, naive["awakening"])
    diverged = _divergence(evidence, naive["divergence"])
    claims = [awake, diverged, _sustainment(evidence, diverged, naive["sustainment"])]
    return [_never_for_a_sham(claim, run) for claim in claims] if run.is_sham else claims


def _claim(
    e: Evidence, name: str, status: str, because: str, estimate: Estimate | None, unit: str, threshold: float
) -> Claim:
    because = f"each expert measured alone, {because}" if e.run.source == "isolated" else because
    bare = Claim(name, status, because, e.expert.index, e.run.id, unit=unit, threshold=threshold)
    bare = replace(bare, source=e.run.source, path=_path(e, name, status, estimate, threshold))
    if name != "awakening":
        bare = replace(bare, control=e.control.kind if e.control else None)
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
        information=finite(estimate.information),
    )


def _path(e: Evidence, name: str, status: str, estimate: Estimate | None, threshold: float) -> tuple[str, ...]:
    """The decisions on the way to the status, in their order."""
    steps = ["data valid"]
    if e.collinear:
        return (*steps, "one common gradient", status)
    steps += ["each expert measured alone" if e.run.source == "isolated" else "gradients differ"]
    if estimate is None:
        return (*steps, "nothing to sustain" if name == "sustainment" else "no estimate", status)
    enough = estimate.points >= e.thresholds.min_points
    steps += [f"{estimate.points:,} points, {'' if enough else 'of '}{e.thresholds.min_points:,.0f} needed"]
    if enough:
        place = "above" if estimate.low > threshold else "below" if estimate.high < threshold else "on both sides of"
        steps += [f"interval {place} {threshold:.3g}"]
    if name != "awakening" and enough:
        steps += [f"compared to {e.control.told}" if e.control else "no control"]
    return (*steps, status)


def _never_for_a_sham(claim: Claim, run: Run) -> Claim:
    """Whatever a run shows in which nothing was perturbed, the perturbation did not cause."""
    if claim.status != SUPPORTED:
        return claim
    because = f"{claim.because}; but nothing was perturbed in this sham run, so it is {elsewhere(run)} doing"
    return replace(claim, status=INCONCLUSIVE, because=because, path=(*claim.path[:-1], "sham run", INCONCLUSIVE))


def _awakening(e: Evidence, naive: bool) -> Claim:
    """Did the bottom tier gain more than the middle tier? The middle tier is the control it carries in itself."""
    clean, spread = e.run.experts[0], e.spread("bottom_gain")
    margin = max(math.log(e.thresholds.awakening_ratio), spread)
    effect = e.gain_estimate
    seen = exp(e.estimate(series.bottom_ratio(e.expert, clean)).mid) if effect.points else math.nan
    left = f"{exp(effect.mid):.2f}x {interval(effect, exp)}"
    enough = effect.points >= e.thresholds.min_points
    if e.collinear:
        status = CONFOUNDED if naive or seen > e.thresholds.awakening_ratio else REFUTED
        much = f" {seen:.2f}x" if effect.points else ""  # before the end of the warm-up nothing is estimated
        because = f"the bottom norms differ{much} only {common_factor(e.run)}: {parallel(e.run)}"
        because += f"; beyond that the bottom weights receive {left}" if enough else ""
    elif not enough:
        status, because = INCONCLUSIVE, _too_short(e, effect)
    elif effect.low > margin:
        status = SUPPORTED
        because = f"bottom weights receive {left} the gradient, beyond what the middle tier gained"
    elif effect.high < margin and seen > e.thresholds.awakening_ratio:
        status = CONFOUNDED
        because = (
            f"the bottom norm is {seen:.2f}x expert 0's, but the middle tier gained as much: "
            f"{left} is left for the bottom weights"
        )
    elif effect.high < margin:
        status = REFUTED
        because = f"bottom weights receive {left} the gradient, no more than the middle tier"
    else:
        status, because = INCONCLUSIVE, _undecided(effect, left, margin, exp(margin))
    if spread > math.log(e.thresholds.awakening_ratio):
        because += f" (threshold {exp(margin):.2f}: what sham runs differ by)"
    claim = _claim(e, "awakening", status, because, effect.transformed(exp), "ratio", exp(margin))
    return replace(claim, control="middle_tier", parts={"bottom": effect.mid} if math.isfinite(effect.mid) else {})


def _divergence(e: Evidence, naive: bool) -> Claim:
    """Does any tier's gradient, or the direction, differ beyond routing and beyond the control?"""
    directional, margin = e.directional, e.margin
    threshold = margin if directional else exp(margin)
    unit = "1 - cosine" if directional else "ratio"
    signed = {name: e.level(name) for name in e.divergence}
    estimates = signed if directional else {name: estimate.absolute() for name, estimate in signed.items()}
    name, effect = max(estimates.items(), key=lambda item: item[1].low)
    highest = max(estimate.high for estimate in estimates.values())
    what = "direction" if directional else f"{name} norm"
    size = f"{effect.mid:.2f} {interval(effect)}" if directional else f"{exp(effect.mid):.2f}x {interval(effect, exp)}"
    past = beyond(e.run, e.control.told if e.control else None)
    if e.collinear:
        status = CONFOUNDED if naive else REFUTED
        because = unseen_direction(e.run)
    elif effect.points < e.thresholds.min_points:
        status, because = INCONCLUSIVE, _too_short(e, effect)
    elif effect.low > margin and e.above_noise is not None and e.estimate(e.above_noise).low <= 0:
        status = INCONCLUSIVE
        because = f"the {what} differs by {size}, no more than between two halves of the same batch: that may be noise"
    elif effect.low > margin and e.control:
        status, because = SUPPORTED, f"the {what} differs by {size}{past}"
    elif effect.low > margin:
        status = INCONCLUSIVE
        because = (
            f"diverged{past}, {what} {size}, but nothing here shows that the perturbation caused it; "
            f"{missing_control(e.run)}"
        )
    elif highest < margin:
        status = CONFOUNDED if naive else REFUTED
        because = f"{past}, the gradients differ by less than {threshold:.3g} ({what} {size})".lstrip(", ")
    else:
        status, because = INCONCLUSIVE, _undecided(effect, f"{what} {size}", margin, threshold)
    claim = _claim(
        e, "divergence", status, because, effect if directional else effect.transformed(exp), unit, threshold
    )
    noise = e.estimate(e.above_noise).mid if directional and e.above_noise is not None else math.nan
    parts = {name: part.mid for name, part in signed.items() if math.isfinite(part.mid)}
    return replace(claim, parts=parts, above_noise=finite(noise))


def _sustainment(e: Evidence, diverged: Claim, naive: bool) -> Claim:
    """Is at least half of the first third's divergence left in the last third?"""
    share = e.thresholds.sustained_share
    if e.collinear:
        status = CONFOUNDED if naive else REFUTED
        because = "nothing to sustain: in one common gradient no divergence can be seen"
        return _claim(e, "sustainment", status, because, None, "ratio", share)
    values, alpha = e.over_time(e.oriented), e.thresholds.alpha
    first, last = (values.contrast(third_weights(*w), alpha) for w in ((1, 0), (0, 1)))
    # A divergence that collapses early may be too small on average to be supported: it was there all the same.
    there = first.low > 0 and first.mid > e.margin and first.points >= e.thresholds.min_points
    began = e.control is not None and there
    if diverged.status != SUPPORTED and not began:
        because = f"nothing to sustain: divergence is {diverged.status}"
        return _claim(e, "sustainment", diverged.status, because, None, "ratio", share)
    if e.run.steps[-1] + 1 < e.run.planned_steps / 2:
        return _claim(
            e, "sustainment", INCONCLUSIVE, "less than half of the planned run is there", None, "ratio", share
        )
    retained = values.contrast(third_weights(-share, 1), alpha)
    change = values.contrast(third_weights(-1, 1), alpha)
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
    low, high = _kept_share(values, ratio, alpha)
    bounds = replace(last, mid=ratio, low=low, high=high, detectable=math.inf)
    return _claim(e, "sustainment", status, because, bounds, "ratio", share)


def _kept_share(values: Batches, ratio: float, alpha: float) -> tuple[float, float]:
    """The shares s for which "the last third keeps s of the first" is not ruled out: the rule itself, inverted.

    As Fieller's interval for a ratio: both thirds are uncertain, and the interval agrees with the claim's status.
    """

    def ruled_out(share: float) -> int:
        kept = values.contrast(third_weights(-share, 1), alpha)
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


def premise(run: Run, thresholds: Thresholds) -> Premise:
    """Dormancy of the clean expert's bottom weights."""
    values = series.dormancy(run)[run.after_warmup(thresholds.warmup)]
    effect = batched(values[np.isfinite(values)]).mean(thresholds.alpha)
    margin, size = math.log(thresholds.dormant_ratio), f"{exp(effect.mid):.2f}x {interval(effect, exp)}"
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
    return Premise(run.id, status, mid, low, high, thresholds.dormant_ratio, because)


def _too_short(e: Evidence, effect: Estimate) -> str:
    missing = int(e.thresholds.min_points) - effect.points
    return f"{effect.points} usable logged steps after the warm-up; {missing} more are needed to decide"


def _undecided(effect: Estimate, size: str, margin: float, threshold: float) -> str:
    """Why it is undecided, and how much longer the run would have to be."""
    told = f"{size} reaches to both sides of {threshold:.3g}"
    if effect.spread > abs(effect.mid - margin):
        return f"{told}: {BY_CHANCE}; seeds or more experts would decide, not more steps"
    if effect.effective < 2:
        return f"{told}; neighbouring steps are so alike that only an enormous effect could decide"
    more = more_points(effect, margin)
    return told if more is None else f"{told}; about {more:,} more logged steps would decide"
