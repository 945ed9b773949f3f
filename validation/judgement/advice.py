"""Advice on the next step: mend the data, add a control, train more seeds, raise the scale, with options for `--set`.

It asks the reasons of the claims, never their words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import MeasuredRun
from validation.analysis.mixtures import merged_once, missing_control, unseen_direction
from validation.analysis.run import Run
from validation.diagnostics import ERROR, Finding
from validation.text import pluralize
from validation.verdict.claims import REFUTED, SUPPORTED, Claim, Reason
from validation.verdict.decide import Verdict
from validation.verdict.groups import TREATED, Group
from validation.verdict.premise import NOT_DORMANT, Premise

STRONGER = 2.0  # perturbation_scale that the protocol asks for after a negative result
MOST_SPARSITY = 0.5
SEEDS, CONTROLS = int(Thresholds().min_seeds), int(Thresholds().min_experts)  # of a study that can be decided
ROWS_PER_BIN = 10  # logged steps in each of six bins, so that a few lost ones do no harm


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


def advise(runs: Sequence[MeasuredRun], verdict: Verdict, findings: Sequence[Finding]) -> Iterator[Advice]:
    """Yield the advice about each group of runs, most important first: on the data, the design, the next experiment.

    Sham runs and positive controls get advice on their data only, and runs of other trainers get no options.
    """
    by_id = {each.run.id: each.run for each in runs}
    of_run: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.run is not None:
            of_run.setdefault(finding.run, []).append(finding)
    for group in verdict.groups:
        members = [by_id[name] for name in group.runs]
        steps = [*_mend(members, of_run)]
        sound = [run for run in members if run.id not in {step.run for step in steps}]
        if group.role == TREATED and sound:
            steps += _advise_group(group, sound, [f for m in members for f in of_run.get(m.id, [])])
        yield from steps if members[0].by_trainer else (replace(step, options=()) for step in steps)


def _mend(members: Sequence[Run], of_run: Mapping[str, Sequence[Finding]]) -> Iterator[Advice]:
    """Yield the remedy for each run whose data carries no verdict."""
    for run in members:
        grave = next((finding for finding in of_run.get(run.id, []) if finding.severity == ERROR), None)
        if grave is not None:
            yield Advice("mend_the_data", f"{grave.symptom}: {grave.fix}", run=run.id)


def _advise_group(group: Group, members: Sequence[Run], findings: Sequence[Finding]) -> Iterator[Advice]:
    """Yield the advice about a group. members: those of its runs that carry a verdict."""
    run = members[0]
    claims = {claim.name: claim for claim in group.claims}
    reasons = {claim.reason for claim in group.claims}
    if all(claim.status == SUPPORTED for claim in group.claims):
        if len(group.runs) == 1:
            text = "one run is one draw: train more seeds and judge them together"
            yield Advice("replicate", text, (_next_seed(members),), run.id)
        return
    yield from _collapse(run, findings)
    yield from _design(run, claims, reasons)
    yield from _length(run, reasons)
    yield from _seeds(members, claims)
    yield from _premise(run, group.premise)
    if any(claim.status == REFUTED for claim in group.claims):
        yield from _stronger(run)


def _collapse(run: Run, findings: Sequence[Finding]) -> Iterator[Advice]:
    """Yield advice if the router collapsed: until that is fixed, neither a larger scale nor more seeds help."""
    found = next((finding for finding in findings if finding.id == "router_collapse"), None)
    if found is None:
        return
    text = f"{found.symptom} ({found.evidence}), so the others hardly train. Fix the router first, by a load-balancing "
    yield Advice("router_first", f"{text}loss or by frozen routing", ("load_balancing=0.01",), run.id)
    if run.by_trainer:
        text = "or freeze the routing, so that the router has no part in the result"
        yield Advice("frozen_routing", text, ("routing=frozen",), run.id)


def _design(run: Run, claims: Mapping[str, Claim], reasons: set[Reason]) -> Iterator[Advice]:
    """Yield advice if a better design could answer the question."""
    controls = len(run.of_role("control"))
    more = (f"control_experts={CONTROLS}",) if controls < CONTROLS else ()
    if Reason.ONE_COMMON_GRADIENT in reasons:
        text = unseen_direction(run)
        if merged_once(run):
            text = "one merge per batch gives all experts one gradient: merge per example, and measure each alone"
        yield Advice("see_direction", text, ("merge=example", "probe_freq=10", *more), run.id)
    elif Reason.DIRECTION_NOT_MEASURED in reasons or Reason.NOISE_NOT_CORRECTED in reasons:
        text = f"{claims['divergence'].because}: measure each expert alone on the same batch"
        larger = int(2 * (run.number("config.batch_size") or 8))
        probed = run.number("config.probe_freq")
        yield Advice("see_direction", text, (f"batch_size={larger}",) if probed else ("probe_freq=10",), run.id)
    elif Reason.DIRECTION_SATURATED in reasons:
        text = "unperturbed experts point elsewhere by themselves: frozen routing keeps them alike"
        yield Advice("frozen_routing", text, ("routing=frozen",), run.id)
    if claims["divergence"].control is None and Reason.ONE_COMMON_GRADIENT not in reasons:
        text = "no control shows how much of a difference the perturbation caused: "
        text += f"add {CONTROLS} control experts" if run.mixture == "parameters" else missing_control(run)
        yield Advice("add_control", text, more, run.id)
    elif 0 < controls < CONTROLS and SUPPORTED not in {claim.status for claim in claims.values()}:
        text = f"{CONTROLS} control experts show better how much experts differ by chance"
        yield Advice("more_controls", text, more, run.id)


def _length(run: Run, reasons: set[Reason]) -> Iterator[Advice]:
    """Yield advice if too little of the training is logged."""
    if Reason.TOO_FEW_PLANNED_ROWS in reasons:
        finer = max(1, run.planned_steps // (6 * ROWS_PER_BIN))
        text = "too few logged steps are planned: log more often, which costs little"
        yield Advice("log_more", text, (f"log_freq={finer}",), run.id)
    elif {Reason.BEFORE_FIRST_LOOK, Reason.NOT_FINISHED} & reasons:
        yield Advice("finish_training", "the training has not reached its planned end: judge it again then", run=run.id)


def _seeds(members: Sequence[Run], claims: Mapping[str, Claim]) -> Iterator[Advice]:
    """Yield the number of seeds that would decide, and the sham runs that make them count more."""
    few = {Reason.TOO_FEW_SEEDS, Reason.TOO_FEW_EXPERTS, Reason.BOTH_SIDES_OF_MARGIN}
    undecided = [claim for claim in claims.values() if claim.reason in few]
    run, there = members[0], len(members)
    if claims["sustainment"].reason == Reason.SHARE_UNDECIDED:
        text = "more seeds show better how much of the effect lasts"
        yield Advice("more_seeds", text, (_next_seed(members),), run.id)
    if not undecided:
        return
    if Reason.BOTH_SIDES_OF_MARGIN in {claim.reason for claim in undecided} and there > 1:
        for claim in undecided:
            wanted = f"about {claim.seeds_needed}" if claim.seeds_needed else "more than a thousand"
            yield Advice(
                "more_seeds", f"{claim.name} needs {wanted} seeds to be decided; there are {there}", run=run.id
            )
    else:
        missing = pluralize(max(1, SEEDS - there), "more seed")
        text = f"train {missing} and judge all {max(SEEDS, there + 1)} together"
        yield Advice("more_seeds", text, (_next_seed(members),), run.id)
    if not claims["divergence"].twins and run.config:
        text = "train a sham run with each seed: twins take away what the seed does by itself"
        yield Advice("add_twins", text, ("perturbation_scale=0",), run.id)


def _premise(run: Run, premise: Premise | None) -> Iterator[Advice]:
    if premise is None or premise.status != NOT_DORMANT:
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


def _next_seed(members: Sequence[Run]) -> str:
    return f"seed={max(run.seed or 0 for run in members) + 1}"
