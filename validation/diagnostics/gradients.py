"""Checks of gradient values: zeros, NaN, constant rows, lost rows, and logging at the wrong place of the loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.schema import TIERS
from prismatic.contract.thresholds import Thresholds
from validation.analysis.mixtures import unrouted
from validation.analysis.run import Expert, Run
from validation.analysis.trained import phrase_of_untrained, untrained_of
from validation.diagnostics.finding import (
    ERROR,
    WARNING,
    Finding,
    any_above_zero,
    graver,
    logged_norms,
    sources,
    tier_norms,
)
from validation.text import pluralize, printable

BROKEN_SHARE = 0.20  # of the rows: a bin of time needs the other 80 %
STUCK_ROWS = 10
NAMED = 12  # experts that a finding lists
NEVER_CHOSEN = "the router never chose the expert, or its parameters do not require gradients"
STARVED = "the router sent {} no token: the routing weight is 0 in each of these rows"
SEND_TOKENS = "balance the router, as by a load-balancing loss, or route more tokens in each step"
ATTACH = "DynamicsLoggerCallback.attach(model, optimizer)"
CALLED_BY_HAND = (None, "plain loop", "accelerate")  # values of the fact `hook`; others are hooks of optimizers
OVERFLOWED = "the loss or the gradients overflowed (training diverged, or half precision without a GradScaler)"
NOT_LOGGED = "the expert was not logged in these steps, as one that was added or removed during training"
SMALLER_STEPS = "lower the learning rate or clip with max_grad_norm"
SAME_EXPERTS = "log every expert from the first step to the last, and begin a new run where their number changes"
ORDER_FIXES = {
    "no_gradients": ("logged when no expert had a gradient", "log after backward() and before zero_grad()"),
    "zero_gradients": ("logged when all gradients were zero", "log before zero_grad(), not after it"),
    "after_step": ("logged after the optimizer's step", "log after backward() and before optimizer.step()"),
    "repeated_step": ("the same step was logged twice", "log once per step, with rising step numbers"),
    "step_in_backward": (
        "the optimizer stepped inside the backward pass, so that no step had all its gradients",
        "step after backward(), without a hook that steps, for a run that is to be measured",
    ),
}
LOST = {
    "dropped": (
        "logged steps could not be written",
        "the disk was full, or the file was locked, for longer than memory could hold the rows",
        "free disk space or copy the run elsewhere, then resume; the lost steps stay gaps in every series",
    ),
    "measurement_failed": (
        "steps could not be measured",
        "the measurement raised an error, which the events of the run name",
        "read the message of the event, and report it if the fault is in prismatic",
    ),
    "refused_row": (
        "rows were refused by the file",
        "SQLite cannot store a value or a column, which the events of the run name",
        "read the message of the event; write finite numbers under names of lower-case letters, digits and underscores",
    ),
}


def zero_norms(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find experts whose gradients were zero whenever they were measured, merged or isolated."""
    for source in sources(run):
        yield from _untrained_peers(source) if source.peers and source.source == "merged" else _zero_norms(source)


def _untrained_peers(run: Run) -> Iterator[Finding]:
    """Find peers that were never trained: the others are judged without them, unless no two are left in any layer."""
    found = untrained_of(run)
    if found.count == found.of:
        yield from _zero_norms(run)
    elif found.count:
        named = [f"{expert} in layer {at}" if found.by_layer else str(expert) for at, expert in sorted(found.places)]
        named = [*dict.fromkeys(named)]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        experts = f"expert{'s' if len(named) > 1 else ''} {', '.join(named[:NAMED])}{more}"
        yield Finding(
            "zero_norms",
            WARNING if found.leaves_a_pair else ERROR,
            f"{phrase_of_untrained([found])} never received a gradient",
            f"the gradient norms of {experts} are 0 in all {len(run.steps)} rows",
            NEVER_CHOSEN,
            "check requires_grad of their parameters, and let the router choose them, as by a load-balancing loss",
            run.id,
        )


def _zero_norms(run: Run) -> Iterator[Finding]:
    logged = {expert: logged_norms(run, expert) for expert in run.experts}
    zero = [e for e, norms in logged.items() if np.isfinite(norms).any() and not any_above_zero(norms)]
    rows = f"in all {len(run.steps)} rows{' of isolated gradients' if run.source == 'isolated' else ''}"
    cause = "most often, gradients were logged before loss.backward() or after optimizer.zero_grad()"
    fix = "log after backward() and before optimizer.step(), call zero_grad() only after that, and train again"
    if len(zero) == len(run.experts) and zero:
        evidence = f"the gradient norms of {len(zero)} experts are 0 {rows}"
        yield Finding("zero_norms", ERROR, "all gradient norms are zero", evidence, cause, fix, run.id)
        return
    for expert in zero:
        evidence = f"its gradient norms are 0 {rows}; other experts have gradients"
        fix = "check requires_grad of its parameters and its routing weight"
        fix += "; routing=frozen gives every expert a share" if run.mixture == "parameters" else ""
        symptom = f"expert {expert} never received a gradient"
        severity = graver(run)
        place = None if expert == 0 else expert
        yield Finding("zero_norms", severity, symptom, evidence, NEVER_CHOSEN, fix, run.id, place)


def zero_tier(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find tiers with a gradient of exactly zero in a layer, which has no logarithm, so that the row is not used.

    Experts with zeros in the same few rows have one cause, such as LoRA's matrices that begin as zeros: one finding.
    """
    for source in sources(run):
        alike: dict[str | bytes, list[int]] = {}
        zeros = {
            number: zero
            for number, expert in source.experts.items()
            if expert.has_gradient and (zero := _zero_tiers(source, expert))  # others are found by zero_norms
        }
        for number, zero in zeros.items():
            in_all = any(rows_T.all() for rows_T in zero.values())
            key = f"expert {number}" if in_all else _any_of(zero).tobytes()
            alike.setdefault(key, []).append(number)
        for numbers in alike.values():
            yield _zero_tier(source, numbers, zeros[numbers[0]], unrouted(run))


def _zero_tier(source: Run, numbers: list[int], zero: dict[str, NDArray[np.bool_]], unrouted: str) -> Finding:
    several = len(numbers) > 1
    names = f"experts {', '.join(map(str, numbers))}" if several else f"expert {numbers[0]}"
    *others, last = zero
    tiers = "norm of a tier" if several else f"{last} norm"
    plural = bool(others) and not several
    if plural:
        tiers = f"{', '.join(others)} and {last} norms"
    rows_T = _any_of(zero)
    starved = all(_is_starved(source, number) for number in numbers)
    begins = rows_T[0] and rows_T.sum() == 1 and not starved
    first = ", in the first row alone: weights that begin as zeros" if begins else ""
    return Finding(
        "zero_tier",
        graver(source) if any(rows_T.all() for rows_T in zero.values()) else WARNING,
        f"the {tiers} of {names} {'are' if plural else 'is'} zero",
        f"in {int(rows_T.sum())} of {len(source.steps)} {source.source} rows, which the verdict skips{first}",
        STARVED.format(names)
        if starved
        else f"these weights received no gradient: {unrouted}a dead part of the block, or underflow",
        SEND_TOKENS if starved else "check the loss scale, and whether the output depends on these weights",
        source.id,
        None if several or numbers[0] == 0 else numbers[0],
    )


def _any_of(zero: dict[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    return np.asarray(np.any([*zero.values()], axis=0))


def _zero_tiers(run: Run, expert: Expert) -> dict[str, NDArray[np.bool_]]:
    """Return, for each tier that is ever zero, the rows in which it is."""
    zero = {tier: _zero_rows(run, expert, f"{tier}_norm") for tier in TIERS}
    return {tier: rows_T for tier, rows_T in zero.items() if rows_T.any()}


def _zero_rows(run: Run, expert: Expert, name: str) -> NDArray[np.bool_]:
    """Return True for each row in which this norm is zero in a layer that has tiers, [T]."""
    return np.asarray(np.any([one[name] == 0 for one in _places_of(run, expert.index)], axis=0))


def _places_of(run: Run, number: int) -> list[Expert]:
    """Return an expert in each layer that has tiers; its means over layers if there is none."""
    return [layer[number] for layer in run.tiered_layers if number in layer] or [run.experts[number]]


def _is_starved(run: Run, number: int) -> bool:
    """Return whether the router gave an expert nothing wherever one of its tiers is zero, in each layer."""
    return all(
        bool((place["routing_weight"][(place.tiers == 0).any(axis=0)] == 0).all()) for place in _places_of(run, number)
    )


def constant_rows(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find norms that never change, which training does not produce."""
    norms = np.stack([tier_norms(run, expert) for expert in run.experts]) if run.experts else np.zeros((0, 3, 0))
    if len(run.steps) >= STUCK_ROWS and np.isfinite(norms).all() and norms.any() and not np.ptp(norms, axis=-1).any():
        yield Finding(
            "constant_rows",
            ERROR,
            "every row is the same",
            f"no norm of any expert changes in {len(run.steps)} rows",
            "the same measurement was logged repeatedly, or the gradients were not cleared and computed again",
            "log after the backward pass of each step",
            run.id,
        )


def nonfinite(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find NaN, infinite or absent norms."""
    for expert in run.experts.values():
        norms = tier_norms(run, expert.index)
        # missing_columns finds tiers without any value, missing_experts experts without any.
        logged = norms[np.isfinite(norms).any(axis=1)]
        broken = np.asarray(~np.isfinite(logged).all(axis=0))
        if not broken.any():
            continue
        tail = max(5, round(0.02 * len(broken)))
        ended = len(broken) >= tail and bool(broken[-tail:].all())
        severe = ended or broken.mean() > BROKEN_SHARE
        first = int(run.steps[np.flatnonzero(broken)[0]])
        symptom = f"expert {expert.index} has norms that are NaN, infinite or missing"
        symptom += ", until the end" if ended else ""
        cause, fix = _cause_of_nonfinite(run, norms, broken)
        yield Finding(
            "nonfinite",
            graver(run) if severe else WARNING,
            symptom,
            f"{int(broken.sum())} of {len(broken)} rows, first at step {first}",
            cause,
            f"{fix}; the charts still show the other rows",
            run.id,
            None if expert.index == 0 else expert.index,
        )


def _cause_of_nonfinite(run: Run, norms: NDArray[np.float64], broken: NDArray[np.bool_]) -> tuple[str, str]:
    """Return the cause and the fix of broken rows: the logger counts in each the values that overflowed.

    norms: of one expert, [tier, T]. broken: rows in which one of them is NaN, infinite or missing, [T].
    """
    counts = np.stack([run.step_column(name)[broken] for name in ("nonfinite", "nan_values")])
    overflowed = np.isinf(norms[:, broken]).any(axis=0) | (counts > 0).any(axis=0)
    if overflowed.all():
        return OVERFLOWED, SMALLER_STEPS
    if not overflowed.any() and np.isfinite(counts).all():
        unlogged = unrouted(run)
        return f"{unlogged}or {NOT_LOGGED}" if unlogged else NOT_LOGGED, SAME_EXPERTS
    both = f"if gradients overflowed, {SMALLER_STEPS}; otherwise {SAME_EXPERTS}"
    return f"{unrouted(run)}{OVERFLOWED}, or {NOT_LOGGED}", both


def missing_gradients(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find parameters without any gradient, as the logger counted them."""
    count = run.step_column("missing_gradients")
    if np.nansum(count) > 0:
        rows = int((count > 0).sum())
        starved = _has_starved_experts(run, count > 0)
        cause = "parameters are frozen or unused, or logging came after zero_grad(set_to_none=True)"
        fix = "log after backward() and before zero_grad(); freeze the same parameters in every expert or in none"
        yield Finding(
            "missing_gradients",
            WARNING,
            "some expert parameters had no gradient",
            f"up to {int(np.nanmax(count))} tensors, in {rows} of {len(run.steps)} rows",
            STARVED.format("an expert of some layer") if starved else f"{unrouted(run)}{cause}",
            SEND_TOKENS if starved else fix,
            run.id,
        )


def _has_starved_experts(run: Run, rows_T: NDArray[np.bool_]) -> bool:
    """Return whether in each of these rows an expert had neither a routing weight nor a gradient in some layer."""
    starved_T = np.zeros(len(run.steps), dtype=bool)
    for place in (place for number in run.experts for place in _places_of(run, number)):
        starved_T |= (place["routing_weight"] == 0) & (place["norm"] == 0)
    return bool(starved_T[rows_T].all())


def rows_lost(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find steps that the logger counted as lost: it does not stop training, but records every loss."""
    for code, (symptom, cause, fix) in LOST.items():
        if run.events.get(code):
            evidence = f"{pluralize(run.events[code], 'event')} of kind {code}"
            yield Finding("rows_lost", WARNING, symptom, evidence, cause, fix, run.id)


def logging_order(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find logging calls at the wrong place of the training loop, as the logger noticed them."""
    hook = run.facts.get("hook")
    cause, remedy = "the logging call is at the wrong place of the training loop", f"; {ATTACH} always does"
    if hook not in CALLED_BY_HAND:
        cause = f"the hook ({printable(hook, 60)}) is at the right place; the loop cleared, repeated or never computed "
        cause, remedy = f"{cause}the gradients before it", ""
    for code, (symptom, fix) in ORDER_FIXES.items():
        if run.events.get(code):
            evidence = f"{pluralize(run.events[code], 'event')} of kind {code} in {pluralize(len(run.steps), 'row')}"
            yield Finding("logging_order", WARNING, symptom, evidence, cause, fix + remedy, run.id)
