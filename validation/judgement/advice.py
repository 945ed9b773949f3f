"""Advice on the next step: add a control, train longer, raise the scale, train more seeds, with options for `--set`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.mixtures import merged_once, missing_control, unseen_direction
from validation.analysis.run import Run
from validation.diagnostics import COLLAPSED_SHARE, ERROR, Finding
from validation.text import pluralize
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, REFUTED, SUPPORTED, Claim
from validation.verdict.decide import Verdict
from validation.verdict.groups import TREATED
from validation.verdict.premise import Premise
from validation.verdict.reasons import BY_CHANCE

STRONGER = 2.0  # perturbation_scale that the protocol asks for after a negative result
MOST_SPARSITY = 0.5


@dataclass(frozen=True)
class Advice:
    """A next step and its reason. options: for `prismatic train --set`; empty if the trainer has no option for it."""

    id: str
    text: str
    options: tuple[str, ...] = ()
    run: str | None = None

    @property
    def line(self) -> str:
        """The option `--set` with its values, to follow `prismatic train --config FILE`."""
        return f"--set {' '.join(self.options)}" if self.options else ""


def advise_run(
    run: Run, claims: dict[str, Claim], premise: Premise | None, findings: Sequence[Finding], thresholds: Thresholds
) -> Iterator[Advice]:
    """Yield the advice about one run, most important first: on the data, the design, the length, the next experiment.

    claims: about the run as a whole, by name. findings: about this run, the gravest first. Sham runs and positive
    controls get no advice, and runs of other trainers get no options.
    """
    if claims and not run.is_sham and not run.is_positive_control:
        advice = _advise_run(run, claims, premise, findings, thresholds)
        yield from advice if run.by_trainer else (replace(step, options=()) for step in advice)


def _advise_run(
    run: Run, claims: dict[str, Claim], premise: Premise | None, findings: Sequence[Finding], thresholds: Thresholds
) -> Iterator[Advice]:
    grave = next((finding for finding in findings if finding.severity == ERROR), None)
    if grave is not None:
        yield Advice("mend_the_data", f"{grave.symptom}: {grave.fix}", run=run.id)
        return
    if all(claim.status == SUPPORTED for claim in claims.values()):
        text = "one run is one draw: train more seeds and judge them together"
        yield Advice("replicate", text, (_next_seed(run),), run.id)
        return
    yield from _collapse(run)
    yield from _confounded(run, claims, findings)
    yield from _too_short(run, claims, thresholds)
    yield from _premise(run, premise)
    if any(claim.status in (REFUTED, INCONCLUSIVE) for claim in claims.values()):
        yield from _stronger(run)


def _collapse(run: Run) -> Iterator[Advice]:
    """Yield advice if the router collapsed: until that is fixed, neither a larger scale nor more steps help."""
    shares = (
        np.stack([expert["routing_weight"] for expert in run.experts.values()]) if run.experts else np.empty((0, 0))
    )
    largest_T = np.nan_to_num(shares, nan=0.0).max(axis=0, initial=0.0)
    if not len(largest_T) or largest_T[-1] <= COLLAPSED_SHARE:
        return
    below = np.flatnonzero(largest_T <= COLLAPSED_SHARE)
    first = int(run.steps[below[-1] + 1]) if len(below) else int(run.steps[0])
    text = (
        f"the router gives one expert more than {COLLAPSED_SHARE:.0%} from step {first:,} on, so the others hardly "
        "train. Fix the router first, by a load-balancing loss or by frozen routing"
    )
    yield Advice("router_first", text, ("load_balancing=0.01",), run.id)
    if run.by_trainer:
        text = "or freeze the routing, so that the router has no part in the result"
        yield Advice("frozen_routing", text, ("routing=frozen",), run.id)


def _confounded(run: Run, claims: dict[str, Claim], findings: Sequence[Finding]) -> Iterator[Advice]:
    """Yield advice if a better design could answer the question."""
    if merged_once(run) and any(claim.status in (CONFOUNDED, REFUTED) for claim in claims.values()):
        text = "one merge per batch gives all experts one gradient: merge per example, and measure each expert alone"
        yield Advice("see_direction", text, ("merge=example", "probe_freq=10"), run.id)
    elif any(finding.id == "collinear_gradients" for finding in findings):
        yield Advice("see_direction", unseen_direction(run), run=run.id)
    if claims["divergence"].control is None and not run.of_role("control"):
        text = "no control shows how much of the divergence the perturbation caused: "
        text += "add control experts" if run.mixture == "parameters" else missing_control(run)
        yield Advice("add_control", text, ("control_experts=2",), run.id)
    elif len(run.of_role("control")) == 1 and claims["divergence"].status == INCONCLUSIVE:
        text = "one control expert is one draw: more of them, and more seeds, show how much experts differ by chance"
        yield Advice("more_controls", text, ("control_experts=3",), run.id)


def _too_short(run: Run, claims: dict[str, Claim], thresholds: Thresholds) -> Iterator[Advice]:
    """Yield advice if more logged steps could decide a claim."""
    if not any(claim.status == INCONCLUSIVE and BY_CHANCE not in claim.because for claim in claims.values()):
        return
    log_freq = run.number("log_freq") or run.number("config.log_freq") or 1
    usable = int(run.after_warmup(thresholds.warmup).sum())
    if usable < thresholds.min_points and log_freq > 1:
        finer = max(1, int(log_freq * usable / thresholds.min_points))
        text = f"{usable} logged steps after the warm-up are too few: log more often, which costs little"
        yield Advice("log_more", text, (f"log_freq={finer}",), run.id)
    elif (steps := run.planned_steps) and run.finished:
        text = "the interval includes the threshold: a longer run narrows it"
        yield Advice("train_longer", text, (f"steps={2 * steps}",), run.id)


def _premise(run: Run, premise: Premise | None) -> Iterator[Advice]:
    if premise is None or premise.status != "not_dormant":
        return
    sparsity = run.number("config.sparsity")
    size = f"{premise.estimate:.2f}x" if premise.estimate is not None else "as much"
    text = (
        f"the premise fails: a bottom weight of the clean expert receives {size} a middle weight's gradient, so there "
        "is nothing dormant to awaken. A smaller sparsity limits the bottom tier to the smallest weights"
    )
    yield Advice("premise_fails", text, (f"sparsity={sparsity / 2:g}",) if sparsity else (), run.id)


def _stronger(run: Run) -> Iterator[Advice]:
    """Yield the advice of the protocol after a negative result."""
    scale, sparsity = run.number("config.perturbation_scale"), run.number("config.sparsity")
    if scale is None and run.mixture != "parameters":
        text = "start with experts that differ more from expert 0, and compare"
        yield Advice("raise_scale", text, run=run.id)
    elif scale is None or scale < STRONGER:
        text = f"the protocol's next step: raise perturbation_scale to {STRONGER} or more"
        yield Advice("raise_scale", text, (f"perturbation_scale={STRONGER}",), run.id)
    else:
        text = f"perturbation_scale is {scale:g} already: a larger scale is the next step of a dose-response"
        yield Advice("raise_scale", text, (f"perturbation_scale={2 * scale:g}",), run.id)
    if sparsity is not None and sparsity < MOST_SPARSITY:
        text = "or perturb more weights by a larger sparsity"
        yield Advice("adjust_sparsity", text, (f"sparsity={min(MOST_SPARSITY, 2 * sparsity):g}",), run.id)


def advise_groups(verdict: Verdict) -> Iterator[Advice]:
    """Yield for each group the number of seeds that would decide its claims."""
    least = int(verdict.thresholds.min_runs)
    for group in verdict.groups:
        missing = least - len(group.runs)
        if group.role == TREATED and missing > 0:
            more = pluralize(missing, "more seed")
            yield Advice("more_seeds", f"the group of {group.name}: at least {more}; {missing + 2} to expect an answer")
        for claim in group.claims if missing <= 0 else ():
            if claim.run is None and "more seed" in claim.because and claim.status == INCONCLUSIVE:
                yield Advice("more_seeds", f"the group of {group.name}, {claim.name}: {claim.because}")


def deduplicate(advice: Iterable[Advice]) -> list[Advice]:
    """Merge equal advice about many runs into one about the first run, with their number."""
    same: dict[tuple[str, tuple[str, ...], str | None], list[Advice]] = {}
    for step in advice:
        same.setdefault((step.id, step.options, None if step.run else step.text), []).append(step)
    return [
        replace(first, text=f"{first.text} (this and {pluralize(len(others), 'other run')})") if others else first
        for first, *others in same.values()
    ]


def _next_seed(run: Run) -> str:
    return f"seed={(run.seed or 0) + 1}"
