"""Short reasons for `prismatic check`: at most 15 words for each claim's status, and the headline sentence.

They are made of a claim's numbers and statuses. The full reason is `Claim.because`, which nothing here reads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from validation.analysis.run import Run
from validation.diagnostics import ERROR
from validation.judgement.judge import Judgement
from validation.text import pluralize, spaced
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Claim
from validation.verdict.groups import Group, deciding_groups
from validation.verdict.wording import digits, estimated

MOST_WORDS = 15
ONE_GRADIENT, SHAM = "one common gradient", "sham run"
"""Decisions in `Claim.path`."""
HEADLINES = {
    SUPPORTED: "the data shows all three claims",
    REFUTED: "the data speaks against {claim}: {reason}",
    INCONCLUSIVE: "the data does not decide {claim}: {reason}",
    CONFOUNDED: "the data cannot show {claim}: {reason}",
    INVALID: "the data carries no verdict: {reason}",
}
ONE_GRADIENT_REASONS = {
    "awakening": "the experts' gradients are parallel and differ only in scale",
    "divergence": "parallel gradients cannot show whether the experts would learn differently",
    "sustainment": "parallel gradients cannot show a divergence",
}
SHARED_GRADIENT = "all experts share one gradient, scaled by their routing shares"
DECIDED_REASONS = {
    ("awakening", SUPPORTED): "bottom weights receive {estimate} the gradient, beyond the middle tier's gain",
    ("awakening", CONFOUNDED): "the bottom norm is higher, but the gain beyond the middle tier is too small",
    ("awakening", REFUTED): "the bottom tier gained no more than the middle tier",
    ("divergence", SUPPORTED): "gradients differ by more than the threshold, compared to {control}",
    ("divergence", CONFOUNDED): "the documented score is high, but gradients differ by less than the threshold",
    ("divergence", REFUTED): "gradients differ by less than the threshold",
    ("sustainment", SUPPORTED): "the last third keeps {estimate} of the first third's divergence",
    ("sustainment", REFUTED): "the divergence collapses: the last third keeps {estimate} of the first third's",
}
UNCERTAIN = "the interval includes the threshold"
CONTROLS = {"control_expert": "the control expert", "frozen_routing": "frozen routing", "sham_run": "the sham run"}


def headline(judgement: Judgement) -> str:
    """Return the verdict as one sentence, without its status: the first claim that decides it, and the reason."""
    claims, runs = headline_claims(judgement), _deciding_runs(judgement)
    status = judgement.verdict.status
    deciding = next((claim for claim in claims.values() if claim.status == status), None)
    if deciding is None:
        return "no run could be read" if judgement.rejected else "no run could be judged"
    text = HEADLINES[status].format(claim=deciding.name, reason=short_reason(deciding, judgement))
    if any(not run.finished for run in runs):
        text += " (provisional: the training has not reached its planned end)"
    if all(run.is_positive_control for run in runs):
        text += " (positive control: the effect was put in by hand)"
    return text


def headline_claims(judgement: Judgement) -> dict[str, Claim]:
    """Return the three controlled claims over all runs, or about the only run, by name. Empty where no run was read."""
    controlled = judgement.verdict.controlled
    return controlled.whole(None) or (controlled.whole(judgement.runs[0].id) if judgement.runs else {})


def short_reason(claim: Claim, judgement: Judgement) -> str:
    """Return the reason for the status of a headline claim, in at most 15 words."""
    groups = deciding_groups(judgement.verdict.groups)
    if len(groups) > 1:
        counts = Counter(other.status for group in groups for other in group.claims if other.name == claim.name)
        if len(counts) == 1:
            return f"{claim.status} in each of {len(groups)} experiments"
        return f"{', '.join(f'{count} {status}' for status, count in counts.items())} of {len(groups)} experiments"
    if groups and len(groups[0].runs) > 1:
        return _reason_of_seeds(claim, groups[0], judgement)
    return _reason_of_run(claim, _deciding_runs(judgement)[0], judgement)


def _deciding_runs(judgement: Judgement) -> list[Run]:
    groups = deciding_groups(judgement.verdict.groups)
    names = {name for group in groups for name in group.runs}
    return [run for run in judgement.runs if run.id in names or not groups]


def _reason_of_run(claim: Claim, run: Run, judgement: Judgement) -> str:
    divergence = judgement.verdict.controlled.whole(run.id)["divergence"]
    if claim.status == INVALID:
        return _invalid(run, judgement)
    if not claim.path:
        return "some experts support it, others carry no verdict"
    if SHAM in claim.path:
        return "nothing was perturbed in this sham run, so the perturbation is not the cause"
    if ONE_GRADIENT in claim.path:
        shared = claim.name == "awakening" and run.mixture == "parameters"
        return SHARED_GRADIENT if shared else ONE_GRADIENT_REASONS[claim.name]
    least = int(judgement.verdict.thresholds.min_points)
    if claim.estimate is None and claim.name == "sustainment":
        early = divergence.status == SUPPORTED
        return "less than half of the planned run is logged" if early else _not_judged(divergence)
    if claim.points is None or claim.points < least:
        points = claim.points or 0
        return f"{pluralize(points, 'usable logged step')}; {least - points} more are needed"
    if claim.status == INCONCLUSIVE and _beyond(claim):
        return _not_enough(claim, divergence)
    return _decided(claim)


def _reason_of_seeds(claim: Claim, group: Group, judgement: Judgement) -> str:
    """Return the reason of a claim over the runs of one group, which differ in the seed."""
    controlled, runs = judgement.verdict.controlled, _deciding_runs(judgement)
    claims = [controlled.whole(name)[claim.name] for name in group.runs]
    count = pluralize(len(claims), "run")
    divergence = next(other for other in group.claims if other.name == "divergence")
    counts, values = Counter(other.status for other in claims), group.values.get(claim.name, {})
    if counts[INVALID]:
        return f"{counts[INVALID]} of {count} carry no verdict"
    if len({run.seed for run in runs} - {None}) < len(runs):
        return "the runs need a seed each, known and different"
    if claim.name == "sustainment" and divergence.status != SUPPORTED and not values:
        return _not_judged(divergence)
    if counts[CONFOUNDED]:
        return f"{counts[CONFOUNDED]} of {count} are confounded, which averaging does not fix"
    if claim.estimate is None and claim.status == REFUTED:
        return f"refuted in each of {count}"
    missing = int(judgement.verdict.thresholds.min_runs) - len(values)
    if missing > 0:
        return f"{pluralize(len(values), 'run')} with an estimate; {pluralize(missing, 'more seed')} needed"
    if claim.estimate is None:
        return "the runs were measured in different ways and are not averaged"
    if claim.status == INCONCLUSIVE and _beyond(claim):
        if runs[0].is_sham:
            return "nothing was perturbed in these sham runs, so the perturbation is not the cause"
        if claim.name == "sustainment" and counts[REFUTED]:
            return f"the divergence collapses in {counts[REFUTED]} of {count}"
        control = None if any(other.control is None for other in claims) else claim.control
        return _not_enough(replace(claim, control=control), divergence)
    return _decided(claim)


def _invalid(run: Run, judgement: Judgement) -> str:
    """Return the reason of an invalid run: its gravest finding."""
    grave = next((finding for finding in judgement.findings_of(run.id) if finding.severity == ERROR), None)
    if grave is None:
        return "there is no perturbed expert to judge"
    return grave.symptom if len(grave.symptom.split()) <= MOST_WORDS else f"the data has an error: {spaced(grave.id)}"


def _not_judged(divergence: Claim) -> str:
    return f"not judged, because divergence is {divergence.status}"


def _beyond(claim: Claim) -> bool:
    """Return whether the whole interval lies above the threshold."""
    return claim.low is not None and claim.threshold is not None and claim.low > claim.threshold


def _not_enough(claim: Claim, divergence: Claim) -> str:
    """Return the reason why a claim is undecided although its interval lies above the threshold."""
    if claim.name == "sustainment":
        return f"it lasts, but divergence itself is {divergence.status}"
    if claim.name == "divergence" and claim.control is None:
        return "no control shows that the perturbation caused the difference"
    return "the difference may be noise: two halves of one batch differ as much"


def _decided(claim: Claim) -> str:
    """Return the reason where the interval and its threshold decide."""
    if claim.status == INCONCLUSIVE:
        return UNCERTAIN
    value = "" if claim.estimate is None else digits(claim.estimate, claim)
    estimate = value if claim.name == "sustainment" else estimated(claim, bare=True)
    control = CONTROLS.get(claim.control or "", spaced(claim.control or "the threshold"))
    return DECIDED_REASONS[claim.name, claim.status].format(estimate=estimate, control=control)
