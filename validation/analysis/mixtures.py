"""Reasons and remedies that depend on what a run's mixture of experts is, and on who trained it.

Soft merging is spoken of only where parameters are merged, and options of the trainer only where it made the run.
"""

from __future__ import annotations

from validation.analysis.run import Run

UNSEEN = "whether the experts would learn differently cannot be seen in it"


def merged_once(run: Run) -> bool:
    """Whether parameters were merged once per batch, so that all gradients are parallel by construction."""
    return run.mixture == "parameters" and run.config.get("merge") != "example"


def common_factor(run: Run) -> str:
    """How the norms of parallel gradients differ, after "only"."""
    return "as the routing shares do" if run.mixture == "parameters" else "by a factor that all weights share"


def parallel(run: Run) -> str:
    """What parallel gradients are, as a sentence."""
    if run.mixture == "parameters":
        return "every expert's gradient is its share times one common gradient"
    return "every expert's gradient is parallel to expert 0's"


def why_parallel(run: Run) -> str:
    """Where parallel gradients come from, as far as the run says what it is."""
    if merged_once(run):
        return "one merge per batch gives every expert the same gradient times its routing share"
    return parallel(run) + (", as one merge per batch makes it" if run.mixture is None else "")


def differing(run: Run) -> str:
    """What would let the gradients differ in direction."""
    if merged_once(run):
        options = "--set merge=example control_experts=1"
        return f"train with {options if run.by_trainer else 'merge: example and control_experts: 1'}"
    if run.merges_parameters:
        return "merge per example, or measure each expert alone"
    return "give the experts inputs of which they can make different things, such as other tokens each"


def unseen_direction(run: Run) -> str:
    """Why parallel gradients cannot tell whether experts diverge, and what would."""
    return f"{why_parallel(run)}: {UNSEEN}; {differing(run)}"


def missing_control(run: Run) -> str:
    """What would show how much of a divergence the perturbation did not cause."""
    if run.mixture == "parameters":
        return "add control_experts: 2, or upload the sham run (perturbation_scale: 0) beside this one"
    return (
        "give one expert or more the role of a control, perturbed by next to nothing, or upload the same run with "
        "nothing perturbed beside this one"
    )


def beyond(run: Run, control: str | None) -> str:
    """What a divergence was measured beyond, with a space before it; nothing where there is nothing."""
    known = [*(["routing"] if run.mixture != "separate" else []), *([control] if control else [])]
    return f" beyond {' and '.join(known)}" if known else ""


def elsewhere(run: Run) -> str:
    """Whose doing it is, if not the perturbation's."""
    return "the setup's" if run.mixture == "separate" else "the routing's or the setup's"


def unrouted(run: Run) -> str:
    """The most likely reason for an expert without a gradient, before others; nothing where every expert takes part."""
    return "no token was sent to the expert in these steps, " if run.mixture == "top_k" else ""


def scales_with(run: Run) -> str:
    """What a gradient norm is proportional to besides what an expert learns."""
    return "the loss" if run.mixture == "separate" else "the loss and the routing share"
