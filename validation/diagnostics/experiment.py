"""Checks of the experiment: identical experts, false controls, a collapsed router, collinear gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from prismatic.contract.schema import TIERS
from prismatic.contract.thresholds import Thresholds
from validation.analysis import series
from validation.analysis.mixtures import common_factor, remedy_for_parallel, scales_with, why_parallel
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array
from validation.diagnostics.finding import ERROR, INFO, WARNING, Finding, any_above_zero, tier_norms

COLLAPSED_SHARE = 0.95
CONTROL_SCALE = 0.01
"""Largest perturbation of a control: it changes a gradient by about as much, a tenth of the margin of awakening."""
NORMS = tuple(f"{tier}_norm" for tier in TIERS)
ROUNDING = 1e-5  # of norms in single precision
NEAR = 0.03
"""Distance of a control from its model, relative to that from other experts; at least 0.19 in 211 honest trainings."""
DEAD_SHARE, DEAD_ROWS = 0.1, 10  # of the rows, at the end, without a token: more than chance


def identical_experts(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find perturbed experts, or peers, that are the same as expert 0, or as another one."""
    if 0 not in run.experts or not len(run.steps) or run.is_sham:
        return
    copies = _copies(run)
    for expert in run.compared:
        changed = None if run.peers else run.changed.get(expert)
        unchanged = changed is not None and not any(changed.values())
        clean = unchanged or (changed is None and _equal_norms(run, 0, expert))
        same = [0] if clean else [other for other in copies.get(expert, ()) if 0 < other < expert]
        if same:
            named = "the clean expert" if clean and not run.peers else f"expert {same[0]}"
            evidence = f"its norms equal expert {same[0]}'s to the last digit in all rows"
            evidence = "the file says that 0 % of its weights were changed" if unchanged else evidence
            yield Finding(
                "identical_experts",
                ERROR,
                f"expert {expert} is the same as {named}",
                evidence,
                "the experts share their weights, or one expert was logged under two numbers"
                if run.peers
                else "perturbation_scale or sparsity is too small to change a weight, the weights were initialised "
                "again after perturbing, or one expert was logged under two numbers",
                "raise perturbation_scale, and call Prismatic.reset_experts() after any re-initialisation"
                if run.mixture == "parameters" and not run.peers
                else "give each expert its own weights, and log each under its own number",
                run.id,
                expert,
            )


def not_a_control(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find control experts that were perturbed, are copies of another expert, or get no token from some step on."""
    copies = _copies(run) if run.of_role("control") else {}
    for control in run.of_role("control"):
        others = copies.get(control.index)
        copied = f"its norms equal expert {others[0]}'s to the last digit in all rows" if others else ""
        evidence = _perturbed(run, control.index) or copied or _near(run, control.index) or _dead(run, control.index)
        if evidence:
            yield Finding(
                "not_a_control",
                ERROR,
                f"expert {control.index} is named a control and is not one",
                evidence,
                "an expert has the wrong role, was logged under two numbers, or lost its tokens to others",
                f"give a control its own weights, changed by at most {CONTROL_SCALE:g} of their magnitude, and tokens "
                "until the end",
                run.id,
                control.index,
            )


def _perturbed(run: Run, control: int) -> str:
    """Return the evidence that a control was perturbed by more than a control may be; else ""."""
    scale = run.scales.get(control, run.option("control_scale"))
    return "" if scale is None or abs(scale) <= CONTROL_SCALE else f"its weights were perturbed by up to {scale:g}"


def _near(run: Run, control: int) -> str:
    """Return the evidence that a control follows another expert more closely than a trained router allows; else "".

    Experts begin close to each other, so only the last third of a finished run can show that.
    """
    source = run.isolated or run
    places = [place for place in source.layers or [source.experts] if control in place]
    if run.config.get("routing") != "trained" or not run.finished:
        return ""
    distance = {other: _distance(places, control, other) for other in source.experts if other != control}
    known = {other: value for other, value in distance.items() if np.isfinite(value)}
    if not known:
        return ""
    nearest, typical = min(known, key=known.__getitem__), float(np.median([*known.values()]))
    if known[nearest] >= NEAR * typical:
        return ""
    return f"its norms differ from expert {nearest}'s by {known[nearest]:.2g}, and from others' by {typical:.2g}"


def _distance(places: Sequence[Mapping[int, Expert]], expert: int, other: int) -> float:
    """Return the mean distance between the logs of two experts' tier norms in the last third; NaN without any."""
    pairs = [(place[expert].log(name), place[other].log(name)) for place in places if other in place for name in NORMS]
    gaps = np.abs([(one - another)[-len(one) // 3 :] for one, another in pairs])
    known = np.isfinite(gaps)
    return float(gaps[known].mean()) if known.any() else float("nan")


def _dead(run: Run, control: int) -> str:
    """Return the evidence that the router stops choosing a control; else ""."""
    last = max(DEAD_ROWS, round(DEAD_SHARE * len(run.steps)))
    for place in (run.experts, *run.layers):
        share = place[control]["routing_weight"] if control in place else np.empty(0)
        if len(share) >= last and not np.any(share[-last:] != 0):  # NaN differs from 0
            since = run.steps[np.flatnonzero(share != 0)[-1] + 1] if share.any() else run.steps[0]
            return f"its routing share is 0 from step {since} to the end"
    return ""


def _copies(run: Run) -> dict[int, list[int]]:
    """Return by expert those whose norms equal its own in all rows; isolated norms, if they were measured.

    Equal experts are honest, and left out, if all experts have one gradient and one share, or if no router tells them
    apart and each is perturbed by the same or by nothing.
    """
    source = run.isolated or run
    layers = {e: [layer[e] for layer in source.layers if e in layer] or [x] for e, x in source.experts.items()}
    alive = {e: experts for e, experts in layers.items() if any(expert.has_gradient for expert in experts)}
    alive = alive if len(source.steps) > 1 else {}
    norms = {e: np.stack([expert.tiers for expert in experts]) for e, experts in alive.items()}
    if len({found[..., 0].tobytes() for found in norms.values()}) == len(norms):  # no two begin alike
        return {}
    if _all_close(list(norms.values())):
        return {}
    frozen = run.config.get("routing") == "frozen"
    same: dict[bytes, list[int]] = {}
    for expert, found in norms.items():
        if not (frozen and _perturbed_alike(run, expert)):
            same.setdefault(found.tobytes(), []).append(expert)
    return {expert: [e for e in equal if e != expert] for equal in same.values() for expert in equal}


def _all_close(arrays: Sequence[Array]) -> bool:
    """Return True if all arrays are equal up to rounding."""
    return all(
        array.shape == arrays[0].shape and np.allclose(array, arrays[0], rtol=ROUNDING, atol=0, equal_nan=True)
        for array in arrays
    )


def _perturbed_alike(run: Run, expert: int) -> bool:
    """Return True if an expert's perturbation changed nothing, or is no noise and the same for all perturbed ones."""
    if not any(run.changed.get(expert, {"": 1.0}).values()):
        return True
    perturbed = run.experts[expert].role == "perturbed"
    return perturbed and run.config.get("perturbation_mode") in ("attractive", "repulsive")


def _equal_norms(run: Run, one: int, other: int) -> bool:
    """Return True if the tier norms of two experts, means over layers, are equal in at least two rows."""
    norms = tier_norms(run, one)
    alive = len(run.steps) > 1 and any_above_zero(norms)
    return alive and bool(np.array_equal(norms, tier_norms(run, other), equal_nan=True))


def router_collapse(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a router that sends almost everything to one expert."""
    remedy = "--set routing=frozen" if run.by_trainer else "balance its load"
    for expert in run.experts.values():
        share = expert["routing_weight"]
        last = share[-max(1, len(share) // 5) :]
        if np.isfinite(last).any() and float(np.nanmean(last)) > COLLAPSED_SHARE:
            since = int(run.steps[np.flatnonzero(share > COLLAPSED_SHARE)[0]])
            yield Finding(
                "router_collapse",
                WARNING,
                f"the router has collapsed onto expert {expert.index}",
                f"its share is above {COLLAPSED_SHARE:.0%} from step {since}, {float(np.nanmean(last)):.1%} at the end",
                "nothing keeps the router from preferring the expert that learns first; the others hardly train"
                + ("" if run.peers else ", which looks like divergence"),
                f"fix the router before you judge the {'experts' if run.peers else 'perturbation'}: {remedy}",
                run.id,
            )


def collinear_gradients(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find experts whose gradients are one common gradient times a factor."""
    if 0 not in run.experts:
        return
    parallel = [expert for expert in run.compared if series.is_collinear(run, expert)]
    if parallel:
        yield Finding(
            "collinear_gradients",
            INFO if run.peers else WARNING,
            f"all experts share one gradient: their norms can differ only {common_factor(run)}",
            f"expert {', '.join(map(str, parallel))}: parallel to expert 0's gradient in nearly all rows",
            why_parallel(run),
            "judge the experts by the isolated probe, which measures each alone"
            if run.peers
            else f"{remedy_for_parallel(run)}; control experts then show the cause of a difference",
            run.id,
        )


def scale_dependent_threshold(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a documented divergence score near its thresholds, where another scale of the loss changes the reading."""
    if 0 not in run.experts or not len(run.steps):
        return
    scores = [
        float(np.nanmean(e["divergence"])) for e in run.of_role("perturbed") if np.isfinite(e["divergence"]).any()
    ]
    near = [s for s in scores if thresholds.divergence_refuted / 10 < s < thresholds.divergence_supported * 10]
    if near:
        yield Finding(
            "scale_dependent_threshold",
            INFO,
            "the documented divergence score depends on the scale of the loss",
            f"mean score {near[0]:.3g}; ten times the loss gives {near[0] * 10:.3g}, a tenth {near[0] / 10:.3g}",
            f"the thresholds 0.05 and 0.01 are absolute, while gradient norms scale with {scales_with(run)}",
            "read the controlled verdict, which does not depend on the scale",
            run.id,
        )


def positive_control(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find a positive control, whose effect is artificial and no result."""
    gain = run.option("positive_control")
    if run.is_positive_control:
        yield Finding(
            "positive_control",
            WARNING,
            "this run is a positive control: its effect was put in by hand",
            f"positive_control = {gain:g} multiplies the bottom-tier gradients of the perturbed experts",
            "it was trained to show how a supported verdict looks",
            "do not report it as a result; set positive_control: 1.0 for an experiment",
            run.id,
        )
