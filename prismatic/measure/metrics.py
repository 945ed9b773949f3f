"""The metrics of an expert at one step: divergence scores, cosine, means over layers, rows of the layers table.

Of layers with many experts, the same numbers are computed as arrays, and the rows are packed.
Axis letters: L layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from prismatic.contract.packing import LAYOUTS, PackedRows, pack, unpack
from prismatic.contract.schema import PACKED_ABOVE, TIERS

GRADIENT_MEANS = (*(f"{tier}_norm" for tier in TIERS), "routing_weight", "bottom_to_middle")
COUNTS = ("nonfinite", "missing_gradients")
ALWAYS_MEASURED = (*GRADIENT_MEANS[:3], "norm")
SCORES = ("divergence", "relative_divergence", "direction")  # comparisons with expert 0, which has none of them


@dataclass(frozen=True)
class ExpertDynamics:
    """The metrics of an expert in one layer at one step. Norms are L2 over all its parameters; NaN if a gradient is."""

    top_norm: float
    bottom_norm: float
    middle_norm: float
    norm: float
    routing_weight: float | None
    gradient_cosine: float | None
    bottom_to_middle: float | None
    nonfinite: int
    missing_gradients: int
    half_product: float | None = None
    """Product of the expert's isolated gradients on the two halves of the batch; see `isolated`."""
    half_product_clean: float | None = None
    """The same between this expert and expert 0, mean over both pairs of halves."""
    weight_cosine: float | None = None
    weight_distance: float | None = None
    token_share: float | None = None
    peer: bool = False
    """True if nothing is said about the role of the expert, so that it is not compared to the first one."""


class ExpertArrays(Sequence[ExpertDynamics]):
    """The dynamics of the experts of one layer as arrays [E]; of many experts they are never made one by one.

    columns: fields of ExpertDynamics; NaN is None where a field may be None. Fields without an array are None.
    """

    def __init__(self, columns: Mapping[str, NDArray[np.float64]], *, peer: bool) -> None:
        self.columns, self.peer = columns, peer

    def __len__(self) -> int:
        return len(self.columns["norm"])

    @overload
    def __getitem__(self, place: int) -> ExpertDynamics: ...

    @overload
    def __getitem__(self, place: slice) -> list[ExpertDynamics]: ...

    def __getitem__(self, place: int | slice) -> ExpertDynamics | list[ExpertDynamics]:
        if not isinstance(place, slice):
            return self[place : place + 1 or None][0]
        columns = [_plain(name, values_E[place].tolist()) for name, values_E in self.columns.items()]
        rows = zip(*columns, strict=True)
        return [ExpertDynamics(**dict(zip(self.columns, row, strict=True)), peer=self.peer) for row in rows]


def _plain(name: str, values: list[float]) -> list[Any]:
    """Return the values of a field of ExpertDynamics, from numbers with NaN for None."""
    if name in COUNTS:
        return [*map(int, values)]
    return values if name in ALWAYS_MEASURED else [None if value != value else value for value in values]


@dataclass(frozen=True)
class PairDynamics:
    """The comparison of two experts of one layer by the isolated probe; see `pairs` and `outputs`."""

    expert: int
    other: int
    half_product: float | None
    """Product of the two experts' isolated gradients on different halves of the batch, mean over both ways."""
    weight_distance: float | None
    output_distance: float | None


def cosine(product: float, norm: float, other: float) -> float | None:
    """Return the cosine of two gradients from their product and norms; None if one of them is zero or not finite."""
    both = norm * other
    return float(product / both) if both > 0 and math.isfinite(both) and math.isfinite(product) else None


def divergence(expert: ExpertDynamics, clean: ExpertDynamics) -> float:
    """Return the documented score: mean over tiers of |norm_i - norm_0|. It scales with the loss and the share."""
    top, bottom, middle = (abs(norm - base) for norm, base in zip(_norms(expert), _norms(clean), strict=True))
    return (top + bottom + middle) / len(TIERS)


def _norms(expert: ExpertDynamics) -> tuple[float, float, float]:
    return expert.top_norm, expert.bottom_norm, expert.middle_norm


def relative_divergence(expert: ExpertDynamics, clean: ExpertDynamics) -> float | None:
    """Return the mean over tiers of |n_i/p_i - n_0/p_0| / (n_0/p_0): independent of the loss scale and the share.

    None if an expert has no share or a tier of the clean expert has no gradient.
    """
    # An expert that was measured alone was not routed, so its share is 1.
    shares = [1.0 if e.routing_weight is None else e.routing_weight for e in (expert, clean)]
    if not all(shares):
        return None
    base = [norm / shares[1] for norm in _norms(clean)]
    if not all(base):
        return None
    return sum(abs(norm / shares[0] - own) / own for norm, own in zip(_norms(expert), base, strict=True)) / len(TIERS)


def aggregate(layers: Sequence[Sequence[ExpertDynamics]], roles: Sequence[str] | None = None) -> dict[str, Any]:
    """Return means over layers under the documented names, and a row per layer and expert.

    Layers may have different numbers of experts. If one has more than PACKED_ABOVE, the rows are `PackedRows`, and
    `roles` (of the experts of the largest layer) are part of the result: the logger then keeps means per role.
    """
    if max(map(len, layers)) > PACKED_ABOVE:
        return _aggregate_large(layers, roles)
    rows = layer_rows(layers, "merged")
    of_expert: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        of_expert.setdefault(row["expert"], []).append(row)
    gradients, scores = {}, {}
    for expert, own_rows in sorted(of_expert.items()):
        whole = "perturbed_norm" if expert else "clean_norm"
        gradients[f"expert_{expert}"] = {
            **{f"{tier}_norm": _mean(own_rows, f"{tier}_norm") for tier in TIERS},
            whole: _mean(own_rows, "norm"),
            "routing_weight": _mean(own_rows, "routing_weight"),
            "bottom_to_middle": _mean(own_rows, "bottom_to_middle"),
        }
        if expert:
            scores[f"expert_{expert}_divergence"] = _mean(own_rows, "divergence")
            scores[f"expert_{expert}_relative_divergence"] = _mean(own_rows, "relative_divergence")
            alignment = _mean(own_rows, "gradient_cosine")
            scores[f"expert_{expert}_direction"] = None if alignment is None else 1 - alignment
    return {
        "expert_gradients": gradients,
        "divergence_scores": scores,
        "nonfinite": sum(row["nonfinite"] for row in rows),
        "missing_gradients": sum(row["missing_gradients"] for row in rows),
        "layers": rows,
    }


def _aggregate_large(layers: Sequence[Sequence[ExpertDynamics]], roles: Sequence[str] | None) -> dict[str, Any]:
    """Return the same for layers of many experts, by arrays."""
    columns = [_columns(experts) for experts in layers]
    mean_E = {
        name: _mean_over_layers([own[name] for own in columns], always=name in ALWAYS_MEASURED) for name in columns[0]
    }
    mean_E["direction"] = [None if cosine is None else 1 - cosine for cosine in mean_E["gradient_cosine"]]
    gradients: dict[str, dict[str, float | None]] = {}
    scores: dict[str, float | None] = {}
    for expert in range(max(map(len, layers))):
        whole = "perturbed_norm" if expert else "clean_norm"
        names = {**{name: name for name in GRADIENT_MEANS}, whole: "norm"}
        gradients[f"expert_{expert}"] = {key: mean_E[name][expert] for key, name in names.items()}
        if expert:
            scores |= {f"expert_{expert}_{name}": mean_E[name][expert] for name in SCORES}
    counts = {name: int(sum(own[name].sum() for own in columns)) for name in COUNTS}
    known = {} if roles is None else {"roles": list(roles)}
    rows = PackedRows("layers", [_packed(layer, "merged", own) for layer, own in enumerate(columns)])
    return {"expert_gradients": gradients, "divergence_scores": scores, **counts, **known, "layers": rows}


def _columns(experts: Sequence[ExpertDynamics]) -> dict[str, NDArray[np.float64]]:
    """Return every metric of the experts of one layer as an array [E], NaN for None."""
    measured = [name for name in LAYOUTS["layers"].arrays if name not in SCORES]
    if isinstance(experts, ExpertArrays):
        peer_E, nothing_E = np.full(len(experts), experts.peer), np.full(len(experts), np.nan)
        columns = {name: experts.columns.get(name, nothing_E) for name in measured}
    else:
        peer_E = np.array([expert.peer for expert in experts])
        columns = {name: np.array([getattr(e, name) for e in experts], dtype=np.float64) for name in measured}
    compared_E = ~peer_E & (np.arange(len(experts)) > 0)
    for name, values_E in zip(SCORES[:2], _scores(columns), strict=True):
        columns[name] = np.where(compared_E, values_E, np.nan)
    return columns


def _scores(columns: Mapping[str, NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `divergence` and `relative_divergence` of every expert from the first one, [E]."""
    norms_3E = np.stack([columns[f"{tier}_norm"] for tier in TIERS])
    share_E = np.nan_to_num(columns["routing_weight"], nan=1.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        per_share_3E = norms_3E / np.where(share_E == 0, np.nan, share_E)
        base_31 = np.where(per_share_3E[:, :1] == 0, np.nan, per_share_3E[:, :1])
        relative_E = (np.abs(per_share_3E - base_31) / base_31).mean(axis=0)
        return np.abs(norms_3E - norms_3E[:, :1]).mean(axis=0), relative_E


def _mean_over_layers(columns: Sequence[NDArray[np.float64]], *, always: bool) -> list[float | None]:
    """Return each expert's mean over the layers that have a value, None without any, [E].

    always: the metric has a value in every layer with the expert, so that NaN is a gradient's and makes the mean NaN.
    """
    whole_LE = np.full((len(columns), max(map(len, columns))), np.nan)
    for layer, values_E in enumerate(columns):
        whole_LE[layer, : len(values_E)] = values_E
    inside_LE = np.arange(whole_LE.shape[1]) < np.array([[len(values_E)] for values_E in columns])
    known_LE = inside_LE if always else ~np.isnan(whole_LE)
    sum_E, count_E = np.where(known_LE, whole_LE, 0.0).sum(axis=0), known_LE.sum(axis=0)
    return [value / count if count else None for value, count in zip(sum_E.tolist(), count_E.tolist(), strict=True)]


def _packed(layer: int, source: str, columns: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Return one packed row of the `layers` table, without the step."""
    with np.errstate(over="ignore"):  # beyond float32
        arrays = {name: pack(columns[name]) for name in LAYOUTS["layers"].arrays}
    return {"layer": layer, "source": source, "experts": len(columns["norm"]), **arrays}


def routing_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return how evenly routers send tokens, from rows of the `layers` table: three numbers, whatever the layers are.

    `routing_entropy` is the mean over layers of the entropy of the token shares over log E: 1 is even, 0 is one expert.
    `routing_violation` is the largest over layers of (largest share / even share) - 1 (Wang et al. 2024, MaxVio).
    `unused_experts` is the number of experts without a token, in all layers.
    """
    shares = _token_shares(rows)
    if not shares:
        return {}
    entropies = [-sum(p * math.log(p) for p in own if p > 0) / math.log(len(own)) for own in shares.values()]
    return {
        "routing_entropy": fmean(entropies),
        "routing_violation": max(max(own) * len(own) - 1 for own in shares.values()),
        "unused_experts": float(sum(share == 0 for own in shares.values() for share in own)),
    }


def _token_shares(rows: Sequence[dict[str, Any]]) -> dict[int, list[float]]:
    """Return by layer the token shares that are known, from rows of the `layers` table, packed or not."""
    shares: dict[int, list[float]] = {}
    if isinstance(rows, PackedRows):
        for packed in rows.packed:
            if packed["source"] == "merged" and packed["token_share"] is not None:
                known = unpack(packed["token_share"], packed["experts"])
                shares[packed["layer"]] = [share for share in known if share is not None]
        return shares
    for row in rows:
        if row["source"] == "merged" and row.get("token_share") is not None:
            shares.setdefault(row["layer"], []).append(row["token_share"])
    return shares


def layer_rows(layers: Sequence[Sequence[ExpertDynamics]], source: str) -> list[dict[str, Any]]:
    """Return a row of the `layers` table for each layer and expert, by column name, without the step."""
    rows = [
        {
            "layer": layer,
            "expert": i,
            "source": source,
            **vars(expert),
            "divergence": divergence(expert, experts[0]) if i and not expert.peer else None,
            "relative_divergence": relative_divergence(expert, experts[0]) if i and not expert.peer else None,
        }
        for layer, experts in enumerate(layers)
        for i, expert in enumerate(experts)
    ]
    for row in rows:
        del row["peer"]  # is no column
    return rows


def add_isolated(
    dynamics: dict[str, Any],
    layers: Sequence[Sequence[ExpertDynamics]],
    pairs: Sequence[Sequence[PairDynamics]],
    unreached: Collection[tuple[int, int]],
) -> None:
    """Add the rows of the isolated probe to the result of `aggregate`. unreached: layers and experts without a row."""
    if isinstance(dynamics["layers"], PackedRows):
        dynamics["layers"] += PackedRows("layers", _isolated_packed(layers, unreached))
        dynamics["pairs"] = PackedRows("pairs", [_packed_pairs(layer, own) for layer, own in enumerate(pairs) if own])
        return
    dynamics["layers"] += [r for r in layer_rows(layers, "isolated") if (r["layer"], r["expert"]) not in unreached]
    dynamics["pairs"] = pair_rows(pairs)


def _isolated_packed(
    layers: Sequence[Sequence[ExpertDynamics]], unreached: Collection[tuple[int, int]]
) -> list[dict[str, Any]]:
    packed = []
    for layer, experts in enumerate(layers):
        if not experts:  # the probe left it out
            continue
        columns = _columns(experts)
        absent = [expert for expert in range(len(experts)) if (layer, expert) in unreached]
        absent_E = np.isin(np.arange(len(experts)), absent)
        found = {name: np.where(absent_E, np.nan, values_E) for name, values_E in columns.items()}
        packed.append(_packed(layer, "isolated", found))
    return packed


def _packed_pairs(layer: int, pairs: Sequence[PairDynamics]) -> dict[str, Any]:
    """Return one packed row of the `pairs` table, without the step."""
    arrays = {name: pack(getattr(pair, name) for pair in pairs) for name in LAYOUTS["pairs"].arrays}
    return {"layer": layer, "pairs": len(pairs), **arrays}


def pair_rows(layers: Sequence[Sequence[PairDynamics]]) -> list[dict[str, Any]]:
    """Return a row of the `pairs` table for each layer and pair, by column name, without the step."""
    return [{"layer": layer, **vars(pair)} for layer, pairs in enumerate(layers) for pair in pairs]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Return the mean over the layers that have a value; None if no layer has one."""
    values = [row[name] for row in rows if row[name] is not None]
    return math.fsum(values) / len(values) if values else None
