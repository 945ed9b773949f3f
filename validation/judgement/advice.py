"""What to do next, from this run's own numbers, with the line that the trainer takes where the trainer made the run."""

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

STRONGER = 2.0  # the perturbation_scale that the protocol asks for where nothing is found
MOST_SPARSITY = 0.5


@dataclass(frozen=True)
class Advice:
    """One thing to do, why, and the options for `python -m prismatic train --set`.

    No options where it is none of the trainer's, or the run none of its own: the text then says all there is to do.
    """

    id: str
    text: str
    options: tuple[str, ...] = ()
    run: str | None = None

    @property
    def line(self) -> str:
        """What is typed after the trainer's config."""
        return f"--set {' '.join(self.options)}" if self.options else ""


def advise_run(
    run: Run, own: dict[str, Claim], premise: Premise | None, findings: Sequence[Finding], thresholds: Thresholds
) -> Iterator[Advice]:
    """About one run, from its own claims, the most important first: mend the data, then the design, then more of it,
    then another experiment. findings: about this run, the gravest first. There is no advice about controls, and none
    with options for a run that our trainer did not make.
    """
    if own and not run.is_sham and not run.is_positive_control:
        advice = _of_run(run, own, premise, findings, thresholds)
        yield from advice if run.by_trainer else (replace(one, options=()) for one in advice)


def _of_run(
    run: Run, own: dict[str, Claim], premise: Premise | None, findings: Sequence[Finding], thresholds: Thresholds
) -> Iterator[Advice]:
    grave = next((finding for finding in findings if finding.severity == ERROR), None)
    if grave is not None:
        yield Advice("mend_the_data", f"{grave.symptom}: {grave.fix}", run=run.id)
        return
    if all(claim.status == SUPPORTED for claim in own.values()):
        yield Advice(
            "replicate", "one run is one draw: train other seeds and judge them together", (_next_seed(run),), run.id
        )
        return
    yield from _collapse(run)
    yield from _confounded(run, own, findings)
    yield from _short(run, own, thresholds)
    yield from _premise(run, premise)
    if any(claim.status in (REFUTED, INCONCLUSIVE) for claim in own.values()):
        yield from _stronger(run)


def _collapse(run: Run) -> Iterator[Advice]:
    """When the router gave up: before that is mended, no scale and no number of steps will help."""
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
        "train: mend the router first, by a load-balancing loss or by frozen routing"
    )
    yield Advice("router_first", text, ("load_balancing=0.01",), run.id)
    if run.by_trainer:
        text = "or take the router out of the question altogether"
        yield Advice("frozen_routing", text, ("routing=frozen",), run.id)


def _confounded(run: Run, own: dict[str, Claim], findings: Sequence[Finding]) -> Iterator[Advice]:
    """What is missing that could answer the question."""
    if merged_once(run) and any(own[name].status in (CONFOUNDED, REFUTED) for name in own):
        text = (
            "with one merge per batch all experts share one gradient: merge per example, and measure each expert alone"
        )
        yield Advice("see_direction", text, ("merge=example", "probe_freq=10"), run.id)
    elif any(finding.id == "collinear_gradients" for finding in findings):
        yield Advice("see_direction", unseen_direction(run), run=run.id)
    if own["divergence"].control is None and not run.of_role("control"):
        text = "nothing shows how much of a divergence the perturbation did not cause: "
        text += "add control experts" if run.mixture == "parameters" else missing_control(run)
        yield Advice("add_control", text, ("control_experts=2",), run.id)
    elif len(run.of_role("control")) == 1 and own["divergence"].status == INCONCLUSIVE:
        text = "one control expert is one draw: more of them, and more seeds, show what differs by chance"
        yield Advice("more_controls", text, ("control_experts=3",), run.id)


def _short(run: Run, own: dict[str, Claim], thresholds: Thresholds) -> Iterator[Advice]:
    """More points where points are what is missing."""
    if not any(claim.status == INCONCLUSIVE and BY_CHANCE not in claim.because for claim in own.values()):
        return
    log_freq = run.number("log_freq") or run.number("config.log_freq") or 1
    usable = int(run.after_warmup(thresholds.warmup).sum())
    if usable < thresholds.min_points and log_freq > 1:
        finer = max(1, int(log_freq * usable / thresholds.min_points))
        text = f"{usable} logged steps after the warm-up are too few: log more often, which costs next to nothing"
        yield Advice("log_more", text, (f"log_freq={finer}",), run.id)
    elif (steps := run.planned_steps) and run.finished:
        text = "the interval reaches to both sides of the threshold: a longer run narrows it"
        yield Advice("train_longer", text, (f"steps={2 * steps}",), run.id)


def _premise(run: Run, premise: Premise | None) -> Iterator[Advice]:
    if premise is None or premise.status != "not_dormant":
        return
    sparsity = run.number("config.sparsity")
    size = f"{premise.estimate:.2f}x" if premise.estimate is not None else "as much"
    text = (
        f"the premise fails: a bottom weight of the clean expert receives {size} a middle weight's gradient, so there "
        "is nothing dormant to awaken; a smaller sparsity takes only the very smallest weights"
    )
    yield Advice("premise_fails", text, (f"sparsity={sparsity / 2:g}",) if sparsity else (), run.id)


def _stronger(run: Run) -> Iterator[Advice]:
    """The protocol's own advice where nothing was found."""
    scale, sparsity = run.number("config.perturbation_scale"), run.number("config.sparsity")
    if scale is None and run.mixture != "parameters":
        text = "set the experts further apart from expert 0 at the start, and see whether more shows"
        yield Advice("raise_scale", text, run=run.id)
    elif scale is None or scale < STRONGER:
        text = f"the protocol's next step: raise perturbation_scale to {STRONGER} or more"
        yield Advice("raise_scale", text, (f"perturbation_scale={STRONGER}",), run.id)
    else:
        text = f"perturbation_scale is {scale:g} already: a larger one is the next step of a dose-response"
        yield Advice("raise_scale", text, (f"perturbation_scale={2 * scale:g}",), run.id)
    if sparsity is not None and sparsity < MOST_SPARSITY:
        text = "or perturb more weights: adjust sparsity"
        yield Advice("adjust_sparsity", text, (f"sparsity={min(MOST_SPARSITY, 2 * sparsity):g}",), run.id)


def advise_groups(verdict: Verdict) -> Iterator[Advice]:
    """How many more seeds, where that is what would decide."""
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
    """The same advice for many runs is one, about the first of them, that says how many they are."""
    alike: dict[tuple[str, tuple[str, ...], str | None], list[Advice]] = {}
    for one in advice:
        alike.setdefault((one.id, one.options, None if one.run else one.text), []).append(one)
    return [
        replace(some[0], text=f"{some[0].text} (this and {pluralize(len(some) - 1, 'other run')})")
        if len(some) > 1
        else some[0]
        for some in alike.values()
    ]


def _next_seed(run: Run) -> str:
    return f"seed={(run.seed or 0) + 1}"
