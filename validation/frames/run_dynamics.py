"""Rows of the Dynamics page: the lines of one run with medians, gaps and bins, the overview, and mean scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prismatic.contract.schema import TIERS
from validation.analysis.effects import Levels
from validation.analysis.run import Run
from validation.analysis.statistics import Array
from validation.frames.beyond_routing import can_divide, divide_by_shares
from validation.frames.bins import VerdictBins, verdict_bins
from validation.frames.downsample import (
    ALL_POINTS,
    HOVER_POINTS,
    MAX_POINTS,
    MIN_POINTS,
    OVERVIEW_POINTS,
    SMOOTH_POINTS,
    gap_spans,
    hover_rows,
    median_rows,
    min_max_indices,
    min_max_rows,
)
from validation.frames.norms import AS_LOGGED, BEYOND_ROUTING, NORM, norms_title
from validation.frames.x_axis import AXES, bins_on_axis, rows_on_axis, steps_on_axis

TIER_METRICS = {f"{tier}_norm": tier for tier in TIERS}


@dataclass(frozen=True)
class ChartOptions:
    """The choices of a reader on the Dynamics page."""

    view: str
    source: str
    """Source of the gradients: merged or isolated."""
    experts: tuple[int, ...]
    unit: str
    """Unit of the horizontal axis, a key of AXES."""
    smooth: bool
    """Draw running medians over the lines."""
    bins: bool
    """Draw the means of the verdict's bins and the steps that it skips."""
    steps: tuple[float, float] | None = None
    """Range of steps; None for all."""
    norms: str = AS_LOGGED
    """Norms as logged, or beyond routing: each divided by its expert's routing share."""


@dataclass(frozen=True, eq=False)
class Style:
    """The horizontal axis, and what is drawn beside the lines."""

    axis: str = "Training step"
    norm: str = NORM
    """Title of norms."""
    height: int | None = None
    """Pixels of one plot without its axis; None for that of a page."""
    smooth: pd.DataFrame | None = None
    """Running medians, with the columns of the lines."""
    hover: pd.DataFrame | None = None
    """Rows that the pointer reads, with the columns of the lines; None for the drawn points."""
    gaps: Sequence[tuple[float, float]] = ()
    """Spans of the axis without logged rows."""
    bins: VerdictBins | None = None


DEFAULT_STYLE = Style()


def line_rows(
    run: Run, options: ChartOptions, metrics: Sequence[str], levels: Levels | None
) -> tuple[pd.DataFrame, Style]:
    """Return the rows of the lines on the chosen axis, and what is drawn beside them.

    levels: those of the run from the chosen source, whose bins are drawn if asked for. Leave out the routing share of
    isolated gradients, each of which has the whole layer, and the norm of the whole gradient, except in runs without
    tier norms. Of peers, the norm of the whole gradient stands for those of its tiers.
    """
    seen, wanted = _drawn(run, options), set(metrics)
    if seen.source == "isolated":
        wanted -= {"routing_weight"}
    title = norms_title(run.from_source(options.source), options.norms)
    tiers = any(np.isfinite(seen.experts[expert][tier]).any() for expert in options.experts for tier in TIER_METRICS)
    if run.peers and "norm" in wanted:  # a colour for each expert leaves none for the tiers
        wanted -= {*TIER_METRICS}
    elif tiers:
        wanted -= {"norm"}
    chosen: dict[str, Any] = {"metrics": sorted(wanted), "experts": options.experts}
    points = min(MAX_POINTS, max(MIN_POINTS, ALL_POINTS // max(1, len(wanted) * len(options.experts))))
    unit, steps = options.unit, options.steps
    bins = verdict_bins(seen, levels, **chosen) if options.bins and levels is not None else None
    style = Style(
        AXES[unit],
        norm=title,
        smooth=rows_on_axis(median_rows(seen, SMOOTH_POINTS, steps, **chosen), run, unit) if options.smooth else None,
        hover=rows_on_axis(hover_rows(seen, HOVER_POINTS, steps, **chosen), run, unit),
        gaps=_gaps_on_axis(seen, run, options),
        bins=bins_on_axis(bins, run, unit) if bins is not None else None,
    )
    return rows_on_axis(min_max_rows(seen, points, steps, **chosen), run, unit), style


def _drawn(run: Run, options: ChartOptions) -> Run:
    """Return the run with the gradients and norms that are to be drawn."""
    seen = run.from_source(options.source)
    if options.norms != BEYOND_ROUTING or not can_divide(seen):
        return seen
    some = options.steps is not None and not options.bins  # bins are means over the rows of the whole run
    return divide_by_shares(seen.between(*options.steps) if some and options.steps else seen, options.experts)


def _gaps_on_axis(seen: Run, run: Run, options: ChartOptions) -> list[tuple[float, float]]:
    low, high = options.steps or (-np.inf, np.inf)
    spans = gap_spans(seen.steps[(seen.steps >= low) & (seen.steps <= high)])
    ends = steps_on_axis(run, options.unit, np.array(spans, dtype=float).reshape(-1))
    return [(float(first), float(last)) for first, last in ends.reshape(-1, 2)]


def overview_rows(run: Run) -> tuple[NDArray[np.int64], Array, str]:
    """Return steps, values and title of the overview: the loss, or the clean expert's middle norm without a loss."""
    clean = run.experts.get(0) or next(iter(run.experts.values()))
    values, title = run.step_column("loss"), "Loss"
    if not np.isfinite(values).any():
        values, title = clean["middle_norm"], "Norm"
    at = min_max_indices(values, OVERVIEW_POINTS)
    return run.steps[at], values[at], title


def mean_scores(run: Run) -> pd.DataFrame:
    """Return rows of expert, role and value: the mean divergence score of each expert but the clean one."""
    rows = [
        {"expert": e.index, "role": e.role, "value": _finite_mean(e["divergence"])}
        for e in run.experts.values()
        if e.role != "clean"
    ]
    return pd.DataFrame(rows, columns=["expert", "role", "value"])


def _finite_mean(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
