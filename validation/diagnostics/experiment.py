"""Can the question be answered with this run? Twins of the clean expert, collapsed routers, shared gradients."""

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
    """A perturbed expert that is the clean one."""
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
            evidence = (
                "the file says that 0 % of its weights were changed"
                if unchanged
                else f"its norms equal expert 0's to the last digit in all {len(run.steps)} rows"
            )
            yield Finding(
                "identical_experts",
                ERROR,
                f"expert {expert.index} is the same as the clean expert",
                evidence,
                "perturbation_scale or sparsity is so small that nothing changed, the weights were initialised again "
                "after perturbing, or expert 0 was logged under two names",
                "raise perturbation_scale, and call Prismatic.reset_experts() after any re-initialisation"
                if run.mixture == "parameters"
                else "give each expert weights of its own, and log each under its own number",
                run.id,
                expert.index,
            )


def router_collapse(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """A router that has chosen one expert."""
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
                "nothing keeps the router from sending everything to the expert that learns first; the others starve, "
                "which shows as divergence and is none",
                f"look at the router before the perturbation: {remedy}",
                run.id,
            )


def collinear_gradients(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Experts whose gradients are one common gradient times their shares."""
    if 0 not in run.experts:
        return
    alike = [e.index for e in run.of_role("perturbed") if series.is_collinear(run, e.index)]
    if alike:
        yield Finding(
            "collinear_gradients",
            WARNING,
            f"all experts share one gradient: their norms can differ only {common_factor(run)}",
            f"expert {', '.join(map(str, alike))}: parallel to expert 0's gradient in all but a few rows",
            why_parallel(run),
            f"{remedy_for_parallel(run)}; a control expert then shows why they do",
            run.id,
        )


def scale_dependent_threshold(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """A documented verdict on divergence that another scale of the loss would turn round."""
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
            "read the controlled verdict, which is free of that",
            run.id,
        )


def positive_control(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """An artificial yes must never be taken for a result."""
    gain = run.number("config.positive_control")
    if run.is_positive_control:
        yield Finding(
            "positive_control",
            WARNING,
            "this run is a positive control: its effect was put in by hand",
            f"positive_control = {gain:g} multiplies the bottom-tier gradients of the perturbed experts",
            "it was trained to show what a yes looks like",
            "do not report it as a result; set positive_control: 1.0 for an experiment",
            run.id,
        )
