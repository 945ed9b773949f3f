"""The load of each expert and how even it is, in windows of logged steps, of one layer or of all.

Rows of `layers` are asked in SQL. Of packed rows, which are thousands of experts, the same is computed from arrays.
Axis letters: E experts, T logged steps, F windows of logged steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from validation.analysis.statistics import Array
from validation.files.run_file import RunFile
from validation.files.tables.packed import PackedLayer, layers_of, steps_of
from validation.query.questions import ask

WINDOWS = 60  # of logged steps, at most
CELLS = 1920  # about as many are drawn: of many experts, windows are longer
FEWEST = 15  # windows


@dataclass(frozen=True, eq=False)
class RoutingLoad:
    """The shares of the experts of one layer, or their means over layers, and their evenness."""

    shares: pd.DataFrame
    """Rows of step, last_step, expert and load: the share of tokens (else of weight) over an even share."""
    evenness: pd.DataFrame
    """Rows of step, last_step, entropy (1 is even), violation (0 is even) and unused (experts without a token)."""
    of_tokens: bool
    """True if the shares count tokens; else they are the router's mean weights."""


def routing_load(con: duckdb.DuckDBPyConnection, file: RunFile, layer: int | None) -> RoutingLoad | None:
    """Return the load of the experts of a layer, or its mean over layers (None); None where no share is logged."""
    windows = windows_of(file.num_experts)
    found = ask(con, "routing_load", run=file.id, layer=layer, windows=windows).to_pandas()
    if found.empty:
        return None
    evenness = ask(con, "routing_evenness", run=file.id, layer=layer, windows=WINDOWS).to_pandas()
    return RoutingLoad(found.drop(columns="of_tokens"), evenness, bool(found["of_tokens"].all()))


def windows_of(experts: int) -> int:
    """Return the number of windows in which the loads of so many experts are drawn."""
    return min(WINDOWS, max(FEWEST, CELLS // max(experts, 1)))


def is_packed(file: RunFile) -> bool:
    """Return True if all experts of a run are in packed rows."""
    return len(file.packed_layers) > 0 and not len(file.layers)


def packed_load(file: RunFile, layer: int | None) -> RoutingLoad | None:
    """Return the same from the packed rows of a file, without unpacking them."""
    table = file.packed_layers
    layers = [each for each in layers_of(table, "merged", steps_of(table, "merged")) if layer in (None, each.layer)]
    shares = [_shares(each) for each in layers]
    if not any(np.isfinite(share_ET).any() for share_ET in shares):
        return None
    tokens = [each.block("token_share").astype(np.float64) for each in layers]
    of_tokens = all(np.isfinite(token_ET[np.isfinite(own)]).all() for token_ET, own in zip(tokens, shares, strict=True))
    steps = layers[0].steps
    return RoutingLoad(_loads(shares, steps, windows_of(file.num_experts)), _evenness(tokens, steps), of_tokens)


def _shares(layer: PackedLayer) -> Array:
    """Return the share of tokens of each expert, else of the router's weight, [E, T]."""
    token_ET, weight_ET = layer.block("token_share"), layer.block("routing_weight")
    return np.where(np.isnan(token_ET), weight_ET, token_ET).astype(np.float64)


def _loads(shares: Sequence[Array], steps: NDArray[np.int64], windows: int) -> pd.DataFrame:
    starts_F, rows_T = _windows(shares, windows)
    shape = max(map(len, shares)), len(starts_F)
    sum_EF, count_EF = np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for own_ET in shares:
        known_ET = np.isfinite(own_ET[:, rows_T])
        load_ET = np.where(known_ET, own_ET[:, rows_T] * known_ET.sum(axis=0), 0.0)
        sum_EF[: len(own_ET)] += np.add.reduceat(load_ET, starts_F, axis=1)
        count_EF[: len(own_ET)] += np.add.reduceat(known_ET, starts_F, axis=1, dtype=np.int64)
    frame, expert = np.nonzero(count_EF.T)
    return pd.DataFrame(
        {
            **_spans(steps[rows_T], starts_F, frame),
            "expert": expert,
            "load": sum_EF[expert, frame] / count_EF[expert, frame],
        }
    )


def _evenness(tokens: Sequence[Array], steps: NDArray[np.int64]) -> pd.DataFrame:
    """Return the rows of evenness, as the view `routing` defines its numbers."""
    starts_F, rows_T = _windows(tokens, WINDOWS)
    if not len(rows_T):
        return pd.DataFrame(columns=["step", "last_step", "entropy", "violation", "unused"], dtype=np.float64)
    sums = np.zeros((4, len(rows_T)))  # of entropy, of layers with it, of violation, of unused experts
    there_T = np.zeros(len(rows_T))
    for own_ET in (own[:, rows_T] for own in tokens):
        known_ET, count_T = np.isfinite(own_ET), np.isfinite(own_ET).sum(axis=0)
        each_ET = own_ET * np.log(np.where(own_ET > 0, own_ET, 1.0))
        has_T, several_T = count_T > 0, count_T > 1
        entropy_T = -np.where(known_ET, each_ET, 0.0).sum(axis=0) / np.log(np.where(several_T, count_T, 2))
        largest_T = np.where(known_ET, own_ET, 0.0).max(axis=0) * count_T - 1
        sums += [entropy_T * several_T, several_T, largest_T * has_T, (own_ET == 0).sum(axis=0)]
        there_T += has_T
    entropy_F, several_F, largest_F, unused_F = np.add.reduceat(sums, starts_F, axis=1)
    rows_F = np.diff([*starts_F, len(rows_T)])
    return pd.DataFrame(
        {
            **_spans(steps[rows_T], starts_F, np.arange(len(starts_F))),
            "entropy": entropy_F / np.where(several_F > 0, several_F, np.nan),
            "violation": largest_F / np.add.reduceat(there_T, starts_F),
            "unused": unused_F / rows_F,
        }
    )


def _windows(values: Sequence[Array], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first place of each window among the rows in which some layer has a value, and these rows."""
    rows_T = np.flatnonzero(np.stack([np.isfinite(own_ET).any(axis=0) for own_ET in values]).any(axis=0))
    frame_T = np.arange(len(rows_T)) * most // max(most, len(rows_T))
    return np.flatnonzero(np.diff(frame_T, prepend=-1)), rows_T


def _spans(steps: NDArray[np.int64], starts_F: NDArray[np.int64], frame: NDArray[np.int64]) -> dict[str, Array]:
    """Return the first and the last step of the window of each row."""
    ends_F = np.append(starts_F[1:], len(steps)) - 1
    return {"step": steps[starts_F][frame], "last_step": steps[ends_F][frame]}
