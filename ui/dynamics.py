"""Pieces of the Dynamics page: which view, over which steps, on which axis, and what can be taken away."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from prismatic.thresholds import Thresholds
from ui.draw import draw
from validation import charts
from validation.charts import Style
from validation.drawing import CONFIG, still
from validation.envelope import places
from validation.series import Run
from validation.statistics import Array

SMOOTH = 25  # drawn points that a running median spans
OVERVIEW_FROM = 1000  # logged steps from which a range is worth choosing
AXES = {"Steps": "Training step", "Tokens": "Tokens", "Hours": "Hours since the first row"}


@dataclass(frozen=True)
class View:
    """One way to look at a run: what it draws, what it needs, and how to read it."""

    hint: str
    needs: str | None = None
    """A column of the experts or, of the loss, of the step."""

    def missing(self, run: Run) -> str | None:
        """What the file lacks for this view, in words."""
        if self.needs is None:
            return None
        own = [run.step_column("loss")] if self.needs == "loss" else [e[self.needs] for e in run.experts.values()]
        there = any(np.isfinite(values).any() for values in own)
        return None if there else self.needs.replace("_", " ").replace("loss", "the loss")

    def of_step(self, run: Run, unit: str, steps: tuple[float, float] | None) -> tuple[Array, Array]:
        """The loss over the chosen steps, on the chosen axis."""
        first, last = steps or (-np.inf, np.inf)
        kept = (run.steps >= first) & (run.steps <= last)
        kept[np.setdiff1d(np.flatnonzero(kept), places(np.where(kept, run.step_column("loss"), np.nan), 4000))] = False
        return _axis_values(run, unit)[kept], run.step_column("loss")[kept]


VIEWS = {
    "Tier norms": View(
        "Blue is the clean expert, red and orange are the perturbed ones, grey a control; light is the top tier, dark "
        "the middle. A line's height holds the scale of the loss as well, and the routing share: read the verdict, not "
        "the height."
    ),
    "By tier": View("The same lines, one panel per tier."),
    "Divergence": View(
        "The documented score. Its thresholds are absolute: the scale of the loss moves the lines past them.",
        "divergence",
    ),
    "Direction": View(
        "0 means parallel to the clean expert's gradient, as all are where parameters are merged once per batch.",
        "direction",
    ),
    "Routing": View(
        "Each expert's share of the batch. A share near 1 means that the router has collapsed.", "routing_weight"
    ),
    "Loss": View("Training loss of the logged batches.", "loss"),
}


def scores(run: Run, limits: Thresholds) -> None:
    """The documented score of each perturbed expert against its thresholds, and how much was logged."""
    with st.container(horizontal=True):
        for expert in run.of_role("perturbed"):
            score = expert["divergence"][np.isfinite(expert["divergence"])]
            mean = float(score.mean()) if len(score) else None
            place = "" if mean is None else _place(mean, limits)
            st.metric(
                f"Divergence score, expert {expert.expert}",
                "none" if mean is None else f"{mean:.3g}",
                delta=place or None,
                delta_color="off",
                delta_arrow="off",
                border=True,
                width="content",
                help="Mean over tiers and steps of |norm - norm of expert 0|. As documented, above "
                f"{limits.divergence_supported:g} diverges, below {limits.divergence_refuted:g} does not. It scales "
                "with the loss and the routing share.",
            )
        st.metric("Logged steps", len(run.steps), border=True, width="content")


def _place(mean: float, limits: Thresholds) -> str:
    if mean > limits.divergence_supported:
        return f"above {limits.divergence_supported:g}"
    if mean < limits.divergence_refuted:
        return f"below {limits.divergence_refuted:g}"
    return f"between {limits.divergence_refuted:g} and {limits.divergence_supported:g}"


def chosen_style(run: Run) -> tuple[Style, str]:
    """What the axis counts, and whether a running median lies over the raw lines."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        known = [name for name in AXES if np.isfinite(_axis_values(run, name)).any()]
        unit = st.segmented_control("Axis", known, default="Steps", required=True, key="axis", bind="query-params")
        smooth = st.toggle(
            "Smooth",
            key="smooth",
            bind="query-params",
            help=f"A running median over {SMOOTH} drawn points, over the raw lines. The verdict never sees it.",
        )
    return Style(AXES[unit], SMOOTH if smooth else 0), unit


def chosen_range(run: Run) -> tuple[float, float] | None:
    """The steps under the brush of the overview; None for all of them."""
    if len(run.steps) < OVERVIEW_FROM:
        return None
    clean = run.experts.get(0) or next(iter(run.experts.values()))
    values = run.step_column("loss")
    title = "Loss"
    if not np.isfinite(values).any():
        values, title = clean["middle_norm"], "Norm"
    drawn = places(values, 600)
    event = draw(
        charts.overview(run.steps[drawn], values[drawn], title),
        key=f"overview-{run.run}",
        on_select="rerun",
        selection_mode="range",
        alt="The whole run, to choose a range of steps from",
    )
    found = event["selection"].get("range", {}).get("step")
    return (float(found[0]), float(found[1])) if found else None


def on_axis(long: pd.DataFrame, run: Run, unit: str) -> pd.DataFrame:
    """The rows with what the axis counts in place of the step."""
    if unit == "Steps":
        return long
    values = _axis_values(run, unit)
    return long.assign(step=values[np.searchsorted(run.steps, long["step"].to_numpy())])


def _axis_values(run: Run, unit: str) -> Array:
    """What the axis counts at each logged step; NaN where the file does not say."""
    if unit == "Tokens":
        per_step = (run.number("config.batch_size") or np.nan) * (run.number("config.sequence_length") or np.nan)
        return np.asarray((run.steps + 1) * per_step, dtype=float)
    if unit == "Hours":
        wall = run.step_column("wall_time")
        known = wall[np.isfinite(wall)]
        return (wall - known[0]) / 3600 if len(known) else wall
    return run.steps.astype(float)


def export(drawn: Sequence[alt.LayerChart | alt.Chart], long: pd.DataFrame, run: Run, view: str) -> None:
    """The chart as a picture, and its rows as a table."""
    name = f"{run.run}-{view.lower().replace(' ', '-')}"
    with st.popover("Export"):
        st.download_button("Rows as CSV", lambda: long.to_csv(index=False), f"{name}.csv", "text/csv")
        st.download_button("Rows as Parquet", lambda: _parquet(long), f"{name}.parquet", "application/octet-stream")
        for kind, mime in (("svg", "image/svg+xml"), ("png", "image/png")):
            st.download_button(
                f"Picture as {kind.upper()}", lambda kind=kind: _picture(drawn, kind), f"{name}.{kind}", mime
            )
        st.caption("Rows as they are drawn: both extremes of each bucket. All rows are in the run file itself.")


def _parquet(long: pd.DataFrame) -> bytes:
    target = io.BytesIO()
    long.to_parquet(target, index=False)
    return target.getvalue()


def _picture(drawn: Sequence[alt.LayerChart | alt.Chart], kind: str) -> bytes:
    """All panels one above the other, on white, wide enough for a paper."""
    import vl_convert  # loads a JavaScript engine: only where there is something to draw

    with alt.data_transformers.enable("default", max_rows=None):
        panels = [{**still(chart.to_dict()), "width": 900} for chart in drawn]
    datasets = {name: rows for panel in panels for name, rows in panel.pop("datasets", {}).items()}
    whole = {"$schema": alt.SCHEMA_URL, "vconcat": panels, "datasets": datasets, "background": "white"}
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(whole, scale=2, config=CONFIG, allowed_base_urls=[]))
    return str(vl_convert.vegalite_to_svg(whole, config=CONFIG, allowed_base_urls=[])).encode()
