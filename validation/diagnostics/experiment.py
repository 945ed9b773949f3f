"""Checks of the experiment: identical experts, a collapsed router, collinear gradients, positive controls."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis import series
from validation.analysis.mixtures import common_factor, remedy_for_parallel, scales_with, why_parallel
from validation.analysis.run import Run
from validation.diagnostics.finding import ERROR, INFO, WARNING, Finding, tier_norms

COLLAPSED_SHARE = 0.95


def identical_experts(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find perturbed experts that are the same as the clean expert."""
    if 0 not in run.experts or not len(run.steps) or run.is_sham:
        return
    for expert in run.of_role("perturbed"):
        changed = run.changed.get(expert.index)
        unchanged = changed is not None and not any(changed.values())
        alive = np.nan_to_num(tier_norms(run, 0)).any()
        same = (
            alive
            and bool(np.array_equal(tier_norms(run, expert.index), tier_norms(run, 0), equal_nan=True))
            and len(run.steps) > 1
        )
        if unchanged or (same and changed is None):
            evidence = f"its norms equal expert 0's to the last digit in all {len(run.steps)} rows"
            evidence = "the file says that 0 % of its weights were changed" if unchanged else evidence
            yield Finding(
                "identical_experts",
                ERROR,
                f"expert {expert.index} is the same as the clean expert",
                evidence,
                "perturbation_scale or sparsity is too small to change a weight, the weights were initialised again "
                "after perturbing, or expert 0 was logged under two numbers",
                "raise perturbation_scale, and call Prismatic.reset_experts() after any re-initialisation"
                if run.mixture == "parameters"
                else "give each expert its own weights, and log each under its own number",
                run.id,
                expert.index,
            )


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
                "nothing keeps the router from preferring the expert that learns first; the others hardly train, which "
                "looks like divergence",
                f"fix the router before you judge the perturbation: {remedy}",
                run.id,
            )


def collinear_gradients(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find experts whose gradients are one common gradient times a factor."""
    if 0 not in run.experts:
        return
    parallel = [e.index for e in run.of_role("perturbed") if series.is_collinear(run, e.index)]
    if parallel:
        yield Finding(
            "collinear_gradients",
            WARNING,
            f"all experts share one gradient: their norms can differ only {common_factor(run)}",
            f"expert {', '.join(map(str, parallel))}: parallel to expert 0's gradient in nearly all rows",
            why_parallel(run),
            f"{remedy_for_parallel(run)}; a control expert then shows the cause of a difference",
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
    gain = run.number("config.positive_control")
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
