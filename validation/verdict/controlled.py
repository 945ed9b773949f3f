"""The controlled verdict of one expert: awakening, divergence and sustainment beyond routing, noise and control.

docs/verdict.md derives the rules; reasons.py has the sentences.
"""

from __future__ import annotations

import math
from dataclasses import replace

from prismatic.contract.thresholds import Thresholds
from validation.analysis import series
from validation.analysis.controls import Cohort
from validation.analysis.evidence import Evidence, evidence_of
from validation.analysis.mixtures import unseen_direction
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Batches, Estimate, exp, finite, third_weights
from validation.verdict import reasons
from validation.verdict.as_written import as_written
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, REFUTED, SUPPORTED, Claim

DECLINE = 0.95  # a smaller loss than this is not mentioned
MAX_SHARE_DISTANCE = 10.0  # of the bounds of the kept share from its estimate


def controlled(run: Run, expert: Expert, cohort: Cohort, thresholds: Thresholds) -> list[Claim]:
    """Return the three claims about one perturbed expert."""
    naive = {claim.name: claim.status == SUPPORTED for claim in as_written(run, expert, thresholds)}
    evidence = evidence_of(run, expert, cohort, thresholds)
    awakening = _awakening(evidence, naive["awakening"])
    divergence = _divergence(evidence, naive["divergence"])
    claims = [awakening, divergence, _sustainment(evidence, divergence, naive["sustainment"])]
    return [_unsupported_in_sham(claim, run) for claim in claims] if run.is_sham else claims


def _claim(
    e: Evidence, name: str, status: str, because: str, estimate: Estimate | None, unit: str, threshold: float
) -> Claim:
    claim = Claim(
        name,
        status,
        reasons.from_isolated_gradients(because) if e.run.source == "isolated" else because,
        e.expert.index,
        e.run.id,
        unit=unit,
        threshold=threshold,
        source=e.run.source,
        path=_path(e, name, status, estimate, threshold),
        control=e.control.kind if e.control and name != "awakening" else None,
    )
    if estimate is None:
        return claim
    return replace(
        claim,
        estimate=finite(estimate.mid),
        low=finite(estimate.low),
        high=finite(estimate.high),
        points=estimate.points,
        effective=finite(estimate.effective),
        detectable=finite(estimate.detectable),
        information=finite(estimate.information),
    )


def _path(e: Evidence, name: str, status: str, estimate: Estimate | None, threshold: float) -> tuple[str, ...]:
    """Return the decisions that led to the status, in order."""
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
        steps += [f"compared to {e.control.label}" if e.control else "no control"]
    return (*steps, status)


def _unsupported_in_sham(claim: Claim, run: Run) -> Claim:
    """Return the claim as inconclusive if a sham run supports it: nothing was perturbed that could be the cause."""
    if claim.status != SUPPORTED:
        return claim
    path = (*claim.path[:-1], "sham run", INCONCLUSIVE)
    return replace(claim, status=INCONCLUSIVE, because=reasons.nothing_perturbed(claim.because, run), path=path)


def _awakening(e: Evidence, naive: bool) -> Claim:
    """Judge whether the bottom tier gained more than the middle tier, which is its control. naive: as written."""
    effect, spread = e.gain_estimate, e.spread("bottom_gain")
    margin = max(math.log(e.thresholds.awakening_ratio), spread)
    ratio = exp(e.estimate(series.bottom_ratio(e.expert, e.run.experts[0])).mid) if effect.points else math.nan
    status, because = _decide_awakening(e, effect, margin, ratio, naive)
    if spread > math.log(e.thresholds.awakening_ratio):
        because += reasons.raised_by_shams(exp(margin))
    claim = _claim(e, "awakening", status, because, effect.transformed(exp), "ratio", exp(margin))
    return replace(claim, control="middle_tier", parts={"bottom": effect.mid} if math.isfinite(effect.mid) else {})


def _decide_awakening(e: Evidence, effect: Estimate, margin: float, ratio: float, naive: bool) -> tuple[str, str]:
    """Return status and reason. ratio: of the bottom norms, before any correction; NaN without usable steps."""
    left, enough = reasons.ratio(effect), effect.points >= e.thresholds.min_points
    raised = ratio > e.thresholds.awakening_ratio
    if e.collinear:
        because = reasons.parallel_bottom_norms(e.run, ratio, left if enough else None)
        return CONFOUNDED if naive or raised else REFUTED, because
    if not enough:
        return INCONCLUSIVE, reasons.too_short(effect.points, int(e.thresholds.min_points))
    if effect.low > margin:
        return SUPPORTED, reasons.bottom_gained(left)
    if effect.high < margin:
        if raised:
            return CONFOUNDED, reasons.bottom_norm_explained(ratio, left)
        return REFUTED, reasons.bottom_gained_no_more(left)
    return INCONCLUSIVE, reasons.undecided(effect, left, margin, exp(margin))


def _divergence(e: Evidence, naive: bool) -> Claim:
    """Judge whether the norm of a tier, or the direction, differs beyond routing and control. naive: as written."""
    threshold = e.margin if e.directional else exp(e.margin)
    signed = {name: e.divergence_estimate(name) for name in e.divergence}
    sizes = signed if e.directional else {name: estimate.absolute() for name, estimate in signed.items()}
    name, effect = max(sizes.items(), key=lambda item: item[1].low)
    highest = max(estimate.high for estimate in sizes.values())
    status, because = _decide_divergence(e, name, effect, highest, naive)
    shown = effect if e.directional else effect.transformed(exp)
    claim = _claim(e, "divergence", status, because, shown, "1 - cosine" if e.directional else "ratio", threshold)
    noise = e.estimate(e.above_noise).mid if e.directional and e.above_noise is not None else math.nan
    parts = {name: part.mid for name, part in signed.items() if math.isfinite(part.mid)}
    return replace(claim, parts=parts, above_noise=finite(noise))


def _decide_divergence(e: Evidence, name: str, effect: Estimate, highest: float, naive: bool) -> tuple[str, str]:
    """Return status and reason. effect: of the part that differs most; highest: upper bound over all parts."""
    quantity = "direction" if e.directional else f"{name} norm"
    size = reasons.difference(effect) if e.directional else reasons.ratio(effect)
    threshold = e.margin if e.directional else exp(e.margin)
    control = e.control.label if e.control else None
    if e.collinear:
        return CONFOUNDED if naive else REFUTED, unseen_direction(e.run)
    if effect.points < e.thresholds.min_points:
        return INCONCLUSIVE, reasons.too_short(effect.points, int(e.thresholds.min_points))
    if effect.low > e.margin:
        if e.above_noise is not None and e.estimate(e.above_noise).low <= 0:
            return INCONCLUSIVE, reasons.batch_noise(quantity, size)
        if e.control is None:
            return INCONCLUSIVE, reasons.no_control(e.run, quantity, size)
        return SUPPORTED, reasons.diverged(e.run, quantity, size, control)
    if highest < e.margin:
        return CONFOUNDED if naive else REFUTED, reasons.below_threshold(e.run, quantity, size, threshold, control)
    return INCONCLUSIVE, reasons.undecided(effect, f"{quantity} {size}", e.margin, threshold)


def _sustainment(e: Evidence, divergence: Claim, naive: bool) -> Claim:
    """Judge whether the last third keeps enough of the first third's divergence. naive: as written."""
    needed = e.thresholds.sustained_share
    if e.collinear:
        status, because = CONFOUNDED if naive else REFUTED, reasons.NO_DIVERGENCE_VISIBLE
        return _claim(e, "sustainment", status, because, None, "ratio", needed)
    values, alpha = e.over_time(e.oriented), e.thresholds.alpha
    first, last = (values.contrast(third_weights(*weights), alpha) for weights in ((1, 0), (0, 1)))
    undecidable = _nothing_to_sustain(e, divergence, first)
    if undecidable is not None:
        return _claim(e, "sustainment", *undecidable, None, "ratio", needed)
    ratio = last.mid / first.mid if first.mid else math.nan
    status, because = _decide_sustainment(values, last, ratio, needed, alpha, divergence)
    low, high = _kept_share(values, ratio, alpha)
    bounds = replace(last, mid=ratio, low=low, high=high, detectable=math.inf)
    return _claim(e, "sustainment", status, because, bounds, "ratio", needed)


def _nothing_to_sustain(e: Evidence, divergence: Claim, first: Estimate) -> tuple[str, str] | None:
    """Return status and reason where sustainment has no estimate; None where it has. first: of the first third."""
    # An early divergence that collapses may be too small on average to be supported.
    began = first.low > 0 and first.mid > e.margin and first.points >= e.thresholds.min_points
    if divergence.status != SUPPORTED and not (e.control is not None and began):
        return divergence.status, reasons.nothing_to_sustain(divergence.status)
    if e.run.steps[-1] + 1 < e.run.planned_steps / 2:
        return INCONCLUSIVE, reasons.LESS_THAN_HALF
    return None


def _decide_sustainment(
    values: Batches, last: Estimate, ratio: float, needed: float, alpha: float, divergence: Claim
) -> tuple[str, str]:
    """Return status and reason. ratio: of the last third's divergence to the first third's."""
    retained = values.contrast(third_weights(-needed, 1), alpha)
    change = values.contrast(third_weights(-1, 1), alpha)
    if retained.low > 0 and last.low > 0:
        if divergence.status != SUPPORTED:
            return INCONCLUSIVE, reasons.kept_but_undecided(ratio, divergence.status)
        declines = change.high < 0 and ratio < DECLINE
        return SUPPORTED, reasons.kept_and_declining(ratio) if declines else reasons.kept(ratio)
    if change.high < 0 and ratio < needed:
        return REFUTED, reasons.collapsed(ratio)
    return INCONCLUSIVE, reasons.kept_uncertain(ratio, needed)


def _kept_share(values: Batches, ratio: float, alpha: float) -> tuple[float, float]:
    """Return the bounds of the shares s for which "the last third keeps s of the first" is not ruled out.

    This inverts the rule, as Fieller's interval of a ratio does, so that the interval agrees with the status.
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

    return bound(ratio - MAX_SHARE_DISTANCE), bound(ratio + MAX_SHARE_DISTANCE)
