"""Phrases on causes and remedies that depend on the mixture of experts (merged, routed, separate) and on the trainer.

They name soft merging only where parameters are merged, and the trainer's options only for its own runs.
"""

from __future__ import annotations

from validation.analysis.run import Run


def merged_once(run: Run) -> bool:
    """Return True if parameters were merged once per batch, which makes all gradients parallel."""
    return run.mixture == "parameters" and run.config.get("merge") != "example"


def common_factor(run: Run) -> str:
    """Return the factor by which norms of parallel gradients differ."""
    return "by the routing shares" if run.mixture == "parameters" else "by one common factor"


def parallel(run: Run) -> str:
    """Return a clause about how the gradients are parallel."""
    if run.mixture == "parameters":
        return "every expert's gradient is its share times one common gradient"
    return "every expert's gradient is parallel to expert 0's"


def why_parallel(run: Run) -> str:
    """Return the cause of parallel gradients, as far as the run names its mixture."""
    if merged_once(run):
        return "one merge per batch gives every expert the same gradient, scaled by its routing share"
    return parallel(run) + (", as with one merge per batch" if run.mixture is None else "")


def remedy_for_parallel(run: Run) -> str:
    """Return the change that lets gradients differ in direction."""
    if merged_once(run):
        options = "--set merge=example control_experts=3"
        return f"train with {options if run.by_trainer else 'merge: example and control_experts: 3'}"
    if run.merges_parameters:
        return "merge per example, or measure each expert alone"
    return "give each expert different inputs, such as tokens of its own"


def unseen_direction(run: Run) -> str:
    """Return the reason why parallel gradients cannot show a divergence, and the remedy."""
    return f"{why_parallel(run)}, so it cannot show whether the experts learn differently; {remedy_for_parallel(run)}"


def missing_control(run: Run) -> str:
    """Return the control that would show how much of a divergence the perturbation caused."""
    if run.mixture == "parameters":
        return "add control_experts: 3, or judge this run together with its sham run (perturbation_scale: 0)"
    return (
        "log a control expert (with a negligible perturbation), or judge this run together with the same run "
        "in which nothing is perturbed"
    )


def unrouted(run: Run) -> str:
    """Return the likeliest cause of an absent gradient in routed mixtures, with a comma; empty for other mixtures."""
    return "no token was routed to the expert in these steps, " if run.mixture == "top_k" else ""


def scales_with(run: Run) -> str:
    """Return the quantities that a gradient norm is proportional to, whatever the expert learns."""
    return "the loss" if run.mixture == "separate" else "the loss and the routing share"
