"""Checks of numbers against each other: an expert's numbers and its tier norms, shares, and the numbers of two runs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from prismatic.contract.schema import ROLES
from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Expert, Run, log
from validation.analysis.statistics import Array
from validation.diagnostics.finding import ERROR, WARNING, Finding, any_above_zero, sources, tier_norms
from validation.diagnostics.gradients import STUCK_ROWS
from validation.text import pluralize

EXACT, OFF = 1e-5, 0.01
"""Differences of two logs: at most that of single precision, and more than any rounding."""
HOLDS = 0.9  # of an expert's rows: two numbers that agree so often are the same number
EXCEPTIONS = 0.01  # of the rows, and one in any case, such as norms whose squares underflow
OFFSET, MERGED_OFFSET = math.log(2), math.log(1.1)
"""Of perturbed beyond control experts. In 170 honest trainings it was below 0.42, of merged parameters below 0.05."""
DOUBTFUL, DOUBTFUL_SPREADS = math.log(1.15), 1.5
"""Such an offset is a warning: none of 230 honest trainings of merged parameters had it."""
JUMP = 1.5  # of one row from the median row; no more than 0.9 in the same trainings, but where tiers have one weight
SPREADS = 3, 6
"""An offset and a jump are beyond these multiples of the rows' spread as well: tiers of few weights are noisy."""


def tiers_disagree(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find numbers of an expert that its tier norms contradict.

    A whole norm is the root of the squared tier norms, and in a layer of one tensor `bottom_to_middle` is the log of
    bottom over middle norm. Each holds to the last digits for all experts of a layer, or for none. In a layer of
    several tensors the two differ, but about equally for perturbed and control experts.
    """
    for source in sources(run):
        for name, identity in IDENTITIES.items():
            places = source.layers or [source.experts]
            broken = [(rows, layer) for layer, place in enumerate(places) for rows in _broken(place, identity)]
            if broken:
                (off, rows, expert), layer = max(broken)
                evidence = f"they differ by more than {OFF:.0%} in {off} of {rows} {source.source} rows"
                evidence += f" of layer {layer}" if source.layers else ""
                evidence += ", and agree to the last digits for another expert"
                yield _contradiction(source, f"the {name} of expert {expert}", evidence, expert or None)
        if evidence := _shifted(source):
            yield _contradiction(source, "bottom_to_middle of the perturbed experts", evidence, None)
        elif source.mixture == "parameters" and (evidence := _shifted(source, doubtful=True)):
            yield _contradiction(source, "bottom_to_middle of the perturbed experts", evidence, None, WARNING)


def _contradiction(run: Run, what: str, evidence: str, expert: int | None, severity: str = ERROR) -> Finding:
    return Finding(
        "tiers_disagree",
        severity,
        f"{what} contradicts the tier norms",
        evidence,
        "columns of one file were changed, or come from different trainings or loggers",
        "judge the file as the training wrote it",
        run.id,
        expert,
    )


def _norm_gap(expert: Expert) -> Array:
    """Return by how much the log of the whole norm exceeds what the tier norms give, [T]."""
    with np.errstate(over="ignore"):
        whole = np.hypot(np.hypot(expert["top_norm"], expert["bottom_norm"]), expert["middle_norm"])
    return expert.log("norm") - log(whole)


def _ratio_gap(expert: Expert) -> Array:
    """Return by how much `bottom_to_middle` exceeds the log of bottom over middle norm, [T]."""
    return np.asarray(expert["bottom_to_middle"] - (expert.log("bottom_norm") - expert.log("middle_norm")))


IDENTITIES = {"whole norm": _norm_gap, "bottom_to_middle": _ratio_gap}


def _broken(place: Mapping[int, Expert], identity: Callable[[Expert], Array]) -> list[tuple[int, int, int]]:
    """Return (rows that break it, rows, expert) for experts that break an identity which holds for another one."""
    gaps = {number: np.abs(gap[np.isfinite(gap)]) for number, gap in ((e.index, identity(e)) for e in place.values())}
    if not any(len(gap) >= STUCK_ROWS and np.mean(gap < EXACT) >= HOLDS for gap in gaps.values()):
        return []
    off = [(int((gap > OFF).sum()), len(gap), number) for number, gap in gaps.items()]
    return [rows for rows in off if rows[0] > max(1, EXCEPTIONS * rows[1])]


def _shifted(run: Run, *, doubtful: bool = False) -> str:
    """Return how the perturbed experts' `bottom_to_middle` is shifted beyond the control experts'; else "".

    doubtful: by more than few honest runs of an ordinary size are.
    """
    shift_T = _shift(run)
    if len(shift_T) < STUCK_ROWS:
        return ""
    centre = float(np.median(shift_T))
    spread = 1.4826 * float(np.median(np.abs(shift_T - centre)))  # a standard deviation that no single row moves
    most = MERGED_OFFSET if run.source == "merged" and run.mixture == "parameters" else OFFSET
    most, spreads = (min(most, DOUBTFUL), DOUBTFUL_SPREADS) if doubtful else (most, SPREADS[0])
    if abs(centre) > max(most, spreads * spread):
        return (
            f"by {centre:+.2f} more than that of the experts they are compared with, in "
            f"{pluralize(len(shift_T), 'row')} of {run.source} gradients; honest runs stay within {most:.2f}"
        )
    jumps = int((np.abs(shift_T - centre) > max(JUMP, SPREADS[1] * spread)).sum())
    if jumps > max(1, EXCEPTIONS * len(shift_T)):
        return f"by more than {JUMP:g} from the median in {jumps} of {len(shift_T)} {run.source} rows"
    return ""


def _shift(run: Run) -> Array:
    """Return by row how far the gap of the perturbed experts exceeds the controls' (or the clean expert's), [T]."""
    by_layer = []
    for place in run.layers:
        gaps = {role: [_ratio_gap(e) for e in place.values() if e.role == role] for role in ROLES}
        others = gaps["control"] or gaps["clean"]
        if gaps["perturbed"] and others:
            by_layer.append(np.mean(gaps["perturbed"], axis=0) - np.mean(others, axis=0))
    shift_T = np.mean(by_layer, axis=0) if by_layer else np.empty(0)
    return np.asarray(shift_T[np.isfinite(shift_T)])


def constant_shares(run: Run, thresholds: Thresholds) -> Iterator[Finding]:
    """Find routing shares that never change although the router is trained, and sees another batch in each step."""
    if run.config.get("routing") != "trained":
        return
    for place in (run.experts, *run.layers):
        shares_ET = np.array([expert["routing_weight"] for expert in place.values()])
        shares_ET = shares_ET[:, np.isfinite(shares_ET).all(axis=0)] if len(place) else np.empty((0, 0))
        if shares_ET.shape[-1] >= STUCK_ROWS and not np.ptp(shares_ET, axis=-1).any():
            yield Finding(
                "constant_shares",
                ERROR,
                "the routing shares never change although the router is trained",
                f"the share of each of {pluralize(len(place), 'expert')} is the same in {shares_ET.shape[-1]} rows",
                "the shares were written by hand, or were not measured again in each step",
                "log routing_weights of the batch whose gradients are logged, or declare routing: frozen",
                run.id,
            )
            return


def expert_hashes(run: Run) -> dict[str, int | None]:
    """Return the experts by the hash of their tier norms in all rows, and None by the hash of all of them.

    Merged and isolated gradients have hashes of their own. Experts without any gradient have none.
    """
    hashes: dict[str, int | None] = {}
    for source in sources(run):
        for expert in source.experts:
            norms = tier_norms(source, expert)
            if any_above_zero(norms):
                hashes[hashlib.sha256(np.where(np.isnan(norms), np.nan, norms).tobytes()).hexdigest()] = expert
    whole = hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()
    return hashes | {whole: None} if hashes else {}


def find_copies(runs: Sequence[Run], hashes: Sequence[Mapping[str, int | None]] | None = None) -> Iterator[Finding]:
    """Find runs that have the numbers of a run of another seed or scale, or of one expert of a run of another seed.

    hashes: `expert_hashes` of each run, if their rows are elsewhere. Options without effect, such as the mode of a
    perturbation by 0, may differ between equal runs; and experts that are trained alone do not know the scale.
    """
    places: dict[str, list[tuple[Run, int | None]]] = {}
    for run, experts in zip(runs, map(expert_hashes, runs) if hashes is None else hashes, strict=True):
        for digest, expert in experts.items():
            places.setdefault(digest, []).append((run, expert))
    copied: dict[str, tuple[Run, int | None, list[str]]] = {}
    for equal in places.values():
        declared = {(run.seed, run.option("perturbation_scale") if e is None else 0) for run, e in equal}
        if len(equal) > 1 and (len(declared) > 1 or None in next(iter(declared))):
            for run, expert in equal:
                if expert is None or run.id not in copied:
                    copied[run.id] = (run, expert, [other.id for other, _ in equal if other is not run])
    for run, expert, others in copied.values():
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        whose = ("every expert", "that") if expert is None else (f"expert {expert}", "that of an expert")
        yield Finding(
            "copied_run",
            ERROR,
            "the run has the numbers of another run",
            f"every tier norm of {whose[0]} equals {whose[1]} of {', '.join(others[:3])}{more}",
            "a file or a part of it was copied, and given another seed or scale",
            "train each seed, and judge each training once",
            run.id,
        )
