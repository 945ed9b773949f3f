"""The load of each expert and how even it is, in windows of logged steps, of one layer or of all."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pandas as pd

from validation.query.questions import ask

WINDOWS = 60  # of logged steps, at most


@dataclass(frozen=True, eq=False)
class RoutingLoad:
    """The shares of the experts of one layer, or their means over layers, and their evenness."""

    shares: pd.DataFrame
    """Rows of step, last_step, expert and load: the share of tokens (else of weight) over an even share."""
    evenness: pd.DataFrame
    """Rows of step, last_step, entropy (1 is even), violation (0 is even) and unused (experts without a token)."""
    of_tokens: bool
    """True if the shares count tokens; else they are the router's mean weights."""


def routing_load(con: duckdb.DuckDBPyConnection, run: str, layer: int | None) -> RoutingLoad | None:
    """Return the load of the experts of a layer, or its mean over layers (None); None where no share is logged."""
    found = ask(con, "routing_load", run=run, layer=layer, windows=WINDOWS).to_pandas()
    if found.empty:
        return None
    evenness = ask(con, "routing_evenness", run=run, layer=layer, windows=WINDOWS).to_pandas()
    return RoutingLoad(found.drop(columns="of_tokens"), evenness, bool(found["of_tokens"].all()))
