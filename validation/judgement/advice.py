"""Advice on the next step: mend the data, add a control, train more seeds, raise the scale, with options for `--set`.

It asks the reasons of the claims, never their words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from prismatic.contract.thresholds import SHAM_SCALE, Thresholds
from validation.analysis.cohort import SCALE, MeasuredRun
from validation.analysis.mixtures import merged_once, missing_control, unseen_direction
from validation.analysis.run import Run
from validation.diagnostics import ERROR, Finding
from validation.judgement.distinct_advice import advise_distinct
from validation.judgement.step import Advice
from validation.verdict.claims import DISTINCT, REFUTED, SUPPORTED, Claim, Reason
from validation.verdict.decide import Verdict
from validation.verdict.groups import NOT_FOUND, NUMBER, PEERS, POSITIVE, SHAM, TREATED, Group
from validation.verdict.premise import NOT_DORMANT, Premise

STRONGER = 2.0  # perturbation_scale that the protocol asks for after a negative result
MOST_SPARSITY = 0.5
SEEDS, CONTROLS = int(Thresholds().min_seeds), int(Thresholds().min_experts)  # of a study that can be decided
SHAM_RUN = "sham run (the same seed with nothing perturbed)"
MOST_SEEDS = 1000  # of a study that a command plans; seeds of a file may be any number
ROWS_PER_BIN = 10  # logged steps in each of six bins, so that a few lost ones do no harm


def advise(runs: Sequence[MeasuredRun], verdict: Verdict, findings: Sequence[Finding]) -> Iterator[Advice]:
    """Yield the advice about each group of runs, most important first: on the data, the design, the next experiment.

    Runs of other trainers get no options.
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
        if sound and (group.role == PEERS or verdict.claim == DISTINCT):
            steps += advise_distinct(group, sound)
        if group.role == TREATED and sound:
            own = [finding for member in members for finding in of_run.get(member.id, [])]
            steps += _advise_group(group, sound, own, _largest_scale(group, verdict.groups))
        elif sound and group.role in (SHAM, POSITIVE) and not any(g.role == TREATED for g in verdict.groups):
            steps += _after_self_test(group, sound)
        yield from steps if members[0].by_trainer else (replace(step, options=(), grid=()) for step in steps)


def _mend(members: Sequence[Run], of_run: Mapping[str, Sequence[Finding]]) -> Iterator[Advice]:
    """Yield the remedy for each run whose data carries no verdict."""
    for run in members:
        grave = next((finding for finding in of_run.get(run.id, []) if finding.severity == ERROR), None)
        if grave is not None:
            yield Advice("mend_the_data", f"{grave.symptom}: {grave.fix}", run=run.id)


def _largest_scale(group: Group, groups: Sequence[Group]) -> float | None:
    """Return the largest scale among the groups that differ from this one only in the scale; None if unknown."""
    others = [g for g in groups if g.role == TREATED and g.options_beside_scale == group.options_beside_scale]
    scales = [other.options.get(SCALE, "") for other in others]
    return max((float(scale) for scale in scales if NUMBER.fullmatch(scale)), default=None)


def _advise_group(
    group: Group, members: Sequence[Run], findings: Sequence[Finding], largest: float | None
) -> Iterator[Advice]:
    """Yield the advice about a group. members: those of its runs that carry a verdict. largest: scale of all groups."""
    run = members[0]
    claims = {claim.name: claim for claim in group.claims}
    reasons = {claim.reason for claim in group.claims}
    if all(claim.status == SUPPORTED for claim in group.claims):
        yield _after_support(members)
        return
    if group.status == REFUTED and len(members) == 1:
        yield _replicate(members)
    yield from _collapse(run, findings)
    # Where something was found, the perturbation is not too weak.
    nothing = all(claim.status != SUPPORTED for claim in group.claims)
    if group.status == REFUTED and nothing:
        yield from _stronger(members, largest, group.premise)
    yield from _unusable(reasons, members)
    yield from _design(members, claims, reasons)
    yield from _length(run, reasons)
    yield from _seeds(members, claims)
    if claims["awakening"].status != SUPPORTED:  # else there was something to awaken, whatever the premise says
        yield from _premise(run, group.premise)
    elif len(members) > 1 and all(claim.status in (SUPPORTED, REFUTED) for claim in group.claims):
        text = (
            "what is decided holds over these seeds. Try another text, model size and length before you generalise it"
        )
        yield Advice("generalise", text, run=run.id)
    if group.status != REFUTED and nothing and any(claim.status == REFUTED for claim in group.claims):
        yield from _stronger(members, largest, group.premise)


def _study(members: Sequence[Run], *, scale: float | None = None, seeds: int = SEEDS) -> tuple[str, ...]:
    """Return the grid of a study: so many seeds of a scale, each with its sham run."""
    known = members[0].option("perturbation_scale")
    wanted = scale if scale is not None else known if known and known > SHAM_SCALE else 1.0
    return f"perturbation_scale=0,{wanted:g}", f"seed=0..{seeds - 1}"


def _replicate(members: Sequence[Run]) -> Advice:
    text = f"this is the result of one run. Train six seeds, each with its {SHAM_RUN}, and judge them together"
    return Advice("replicate", text, grid=_study(members), run=members[0].id)


def _after_support(members: Sequence[Run]) -> Advice:
    if len(members) == 1:
        return _replicate(members)
    text = (
        "all three claims hold over these seeds. Try another text, model size and length before you generalise from it"
    )
    return Advice("generalise", text, run=members[0].id)


def _after_self_test(group: Group, members: Sequence[Run]) -> Iterator[Advice]:
    """Yield the experiment that a self-test belongs to."""
    if group.role == SHAM:
        text = "nothing was perturbed in these runs: judge them together with perturbed runs of the same options"
        yield Advice("train_perturbed", text, grid=_study(members), run=members[0].id)
    elif group.check == NOT_FOUND:
        text = "the planted effect was not found, so a real one would be missed too: train longer, or more seeds"
        yield Advice("self_test_failed", text, run=members[0].id)
    else:
        text = (
            "this run tests the method and not the perturbation. For an answer, train the same experiment with nothing "
            f"planted (positive_control=1 multiplies by one): six seeds, each with its {SHAM_RUN}"
        )
        yield Advice("train_unplanted", text, ("positive_control=1",), _study(members), members[0].id)


def _unusable(reasons: set[Reason], members: Sequence[Run]) -> Iterator[Advice]:
    """Yield advice if the runs cannot be compared, whatever they show."""
    texts = {
        Reason.NO_REPLICAS: "remove the copies, and train each seed by itself with its seed recorded",
        Reason.SHAM_RUNS_SHOW_AN_EFFECT: "perturbed experts differ from control experts even where nothing is "
        "perturbed: look for something else that sets them apart, such as their order or their start",
        Reason.MEANS_OVER_LAYERS: "log every layer, as `DynamicsLoggerCallback` does: a mean can hide where the "
        "difference lies",
        Reason.SHARES_NOT_LOGGED: "log routing_weight for every expert, as `DynamicsLoggerCallback` does",
    }
    yield from (Advice(reason, text, run=members[0].id) for reason, text in texts.items() if reason in reasons)


def _collapse(run: Run, findings: Sequence[Finding]) -> Iterator[Advice]:
    """Yield advice if the router collapsed: until that is fixed, neither a larger scale nor more seeds help."""
    found = next((finding for finding in findings if finding.id == "router_collapse"), None)
    if found is None:
        return
    text = f"{found.symptom} ({found.evidence}), so the others hardly train. Fix the router first, by a load-balancing "
    yield Advice("router_first", f"{text}loss or by frozen routing", ("load_balancing=0.01",), run=run.id)
    if run.by_trainer:
        text = "or freeze the routing, so that the router has no part in the result"
        yield Advice("frozen_routing", text, ("routing=frozen",), run=run.id)


def _design(members: Sequence[Run], claims: Mapping[str, Claim], reasons: set[Reason]) -> Iterator[Advice]:
    """Yield advice if a better design could answer the question."""
    run = members[0]
    controls, log_freq = len(run.of_role("control")), int(run.option("log_freq") or 10)
    more = (f"control_experts={CONTROLS}",) if controls < CONTROLS else ()
    study, each = _study(members), f"in six seeds, each with its {SHAM_RUN}"
    if Reason.ONE_COMMON_GRADIENT in reasons:
        text = f"{unseen_direction(run)}, {each}"
        if merged_once(run):
            text = (
                "train with one merge per example, so that experts can receive different gradients, and with "
                f"{CONTROLS} control experts to compare with, {each}. The probe measures each expert alone"
            )
        yield Advice("see_direction", text, ("merge=example", f"probe_freq={log_freq}", *more), study, run.id)
    elif Reason.ROUTING_DIFFERS in reasons:
        text = f"measure each expert alone on the same batch (the probe), which no router can change, {each}"
        yield Advice("add_probe", text, (f"probe_freq={log_freq}", *more), study, run.id)
    elif Reason.ODD_EXPERT in reasons:
        text = "train the sham run of each seed: minus its sham run, a run is as likely to err to either side"
        yield Advice("add_twins", text, grid=study, run=run.id)
    elif Reason.DIRECTION_NOT_MEASURED in reasons or Reason.NOISE_NOT_CORRECTED in reasons:
        larger = int(2 * (run.option("batch_size") or 8))
        if claims["divergence"].source == "isolated":
            text = (
                "train the same study with larger batches for the probe, at most as many sequences as fit into memory"
            )
            yield Advice("see_direction", text, (f"batch_size={larger}",), study, run.id)
        else:
            text = f"measure each expert alone on the same batch (the probe), {each}"
            yield Advice("see_direction", text, (f"probe_freq={log_freq}",), study, run.id)
    elif Reason.DIRECTION_SATURATED in reasons:
        text = f"unperturbed experts point elsewhere by themselves. Frozen routing keeps them alike: train it {each}"
        yield Advice("frozen_routing", text, ("routing=frozen",), study, run.id)
    if claims["divergence"].control is None and Reason.ONE_COMMON_GRADIENT not in reasons:
        text = "no control shows how much of a difference the perturbation caused: "
        known = run.mixture == "parameters"
        text += f"add {CONTROLS} control experts, {each}" if known else missing_control(run)
        yield Advice("add_control", text, more, study, run.id)
    elif 0 < controls < CONTROLS and SUPPORTED not in {claim.status for claim in claims.values()}:
        text = f"{CONTROLS} control experts show better how much experts differ by chance"
        yield Advice("more_controls", text, more, study, run.id)


def _length(run: Run, reasons: set[Reason]) -> Iterator[Advice]:
    """Yield advice if too little of the training is logged."""
    if Reason.TOO_FEW_PLANNED_ROWS in reasons:
        finer = max(1, run.planned_steps // (6 * ROWS_PER_BIN))
        text = "too few logged steps are planned: log more often, which costs little"
        yield Advice("log_more", text, (f"log_freq={finer}",), run=run.id)
    elif {Reason.BEFORE_FIRST_LOOK, Reason.NOT_FINISHED} & reasons:
        text = "wait for the end of the training, and judge it again: its last third decides whether an effect lasts"
        yield Advice("finish_training", text, run=run.id)


def _seeds(members: Sequence[Run], claims: Mapping[str, Claim]) -> Iterator[Advice]:
    """Yield the number of seeds that would decide, and the sham runs that make them count more."""
    few = {Reason.TOO_FEW_SEEDS, Reason.TOO_FEW_EXPERTS, Reason.BOTH_SIDES_OF_MARGIN, Reason.SHARE_UNDECIDED}
    undecided = [claim for claim in claims.values() if claim.reason in few]
    run, there, twins = members[0], len(members), claims["divergence"].twins
    if not undecided:
        return
    if there < SEEDS:
        few_runs = "one run" if there == 1 else f"{there} seeds"
        text = (
            f"{few_runs} cannot decide. Train six seeds, each with its {SHAM_RUN}, and judge all {2 * SEEDS} together"
        )
        yield Advice("more_seeds", text, grid=_study(members), run=run.id)
        return
    if not twins and run.config:
        text = "train the sham run of every seed: subtracting it takes away what a seed does by itself"
        yield Advice("add_twins", text, grid=_study(members, seeds=_last_seed(members) + 1), run=run.id)
    known = {claim.name: claim.seeds_needed for claim in undecided if claim.seeds_needed}
    if known:
        needed = " and ".join(f"{name} needs about {seeds} seeds" for name, seeds in known.items())
        text = f"{needed} to be decided; there are {there}"
        yield Advice("more_seeds", text, grid=_study(members, seeds=max(there + 1, min(known.values()))), run=run.id)
    else:
        text = "more seeds will hardly decide: what is open lies close to its threshold, or varies too much"
        yield Advice("more_seeds", text, run=run.id)


def _premise(run: Run, premise: Premise | None) -> Iterator[Advice]:
    if premise is None or premise.status != NOT_DORMANT:
        return
    sparsity = run.option("sparsity")
    size = f"{premise.estimate:.2f}x" if premise.estimate is not None else "as much"
    text = (
        f"the premise fails: a bottom weight of the clean expert receives {size} a middle weight's gradient, so there "
        "is nothing dormant to awaken. A smaller sparsity limits the bottom tier to the smallest weights"
    )
    yield Advice("premise_fails", text, (f"sparsity={sparsity / 2:g}",) if sparsity else (), run=run.id)


def _stronger(members: Sequence[Run], largest: float | None, premise: Premise | None) -> Iterator[Advice]:
    """Yield the advice of the protocol after a negative result."""
    run = members[0]
    scale, sparsity = largest or run.option("perturbation_scale"), run.option("sparsity")
    if scale is None and run.mixture != "parameters":
        text = "start with experts that differ more from expert 0, and compare"
        yield Advice("raise_scale", text, run=run.id)
        return
    if "config.perturbation_scale" not in run.facts and "option.perturbation_scale" in run.facts:
        # What a scale means is known of our own perturbation only: it may be the share of weights that begin anew.
        text = f"a perturbation of {scale:g}, in the unit of this training, is too weak, or there is nothing to find. "
        text += f"The documented next step is a stronger one, in six seeds, each with its {SHAM_RUN}"
        yield Advice("raise_scale", text, run=run.id)
        return
    larger = STRONGER if scale is None or scale < STRONGER else 2 * scale
    text = f"scale {scale:g} is too small, or there is nothing to find. " if scale is not None else ""
    text += (
        f"The documented next step is a larger perturbation: scale {larger:g} in six seeds, each with its {SHAM_RUN}"
    )
    yield Advice("raise_scale", text, grid=_study(members, scale=larger), run=run.id)
    awake = premise is not None and premise.status == NOT_DORMANT  # then a smaller sparsity is advised
    if sparsity is not None and sparsity < MOST_SPARSITY and not awake:
        text = "or perturb more weights by a larger sparsity"
        options = (f"sparsity={min(MOST_SPARSITY, 2 * sparsity):g}",)
        yield Advice("adjust_sparsity", text, options, _study(members), run.id)


def _last_seed(members: Sequence[Run]) -> int:
    return max([SEEDS - 1, *(run.seed or 0 for run in members if (run.seed or 0) < MOST_SEEDS)])
