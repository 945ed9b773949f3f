"""Pieces of the Dynamics page: which view, of which gradients, over which steps, and what can be taken away."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from prismatic.contract.thresholds import Thresholds
from ui.widgets.charts import Described, describe, draw
from ui.widgets.memo import memoized
from ui.widgets.tables import show_table
from validation.analysis.run import Run
from validation.charts import run_dynamics
from validation.charts.lines import LineChart
from validation.frames.downsample import SMOOTH_WINDOW
from validation.frames.run_dynamics import TIER_METRICS, ChartOptions, Style, line_rows, mean_scores, overview_rows
from validation.frames.x_axis import AXES, axis_values
from validation.judgement.judge import Judgement
from validation.report.figures import CONFIG, static_spec

OVERVIEW_FROM = 1000  # logged steps from which a range is worth choosing
AT_ONCE = 4  # experts whose lines can be told apart in one plot
CARDS = 3  # experts with a card of their own
TIERS = tuple(TIER_METRICS)


@dataclass(frozen=True)
class View:
    """One way to look at a run: what it draws from which metrics, and how to read it."""

    hint: str
    metrics: tuple[str, ...]
    draw: Callable[[pd.DataFrame, Style, Thresholds], LineChart]

    def missing(self, run: Run) -> str | None:
        """What the file lacks for this view, in words."""
        if run.source == "isolated" and self.metrics == ("routing_weight",):
            return "routing shares of isolated gradients, where each expert has the whole layer"
        own = [run.step_column("loss")] if "loss" in self.metrics else []
        own += [e[metric] for e in run.experts.values() for metric in self.metrics if metric != "loss"]
        there = any(np.isfinite(values).any() for values in own)
        return None if there else self.metrics[0].replace("_", " ").replace("loss", "the loss")


VIEWS = {
    "Tier norms": View(
        "Blue is the clean expert, red and orange are the perturbed ones, grey a control; light is the top tier, dark "
        "the middle. A line's height holds the scale of the loss as well, and the routing share: read the verdict, "
        "not the height.",
        (*TIERS, "norm"),
        lambda long, style, thresholds: run_dynamics.tier_norms(long, style),
    ),
    "By tier": View(
        "The same lines, one panel per tier.",
        TIERS,
        lambda long, style, thresholds: run_dynamics.tier_panels(long, style),
    ),
    "Together": View(
        "What happens at the same step: whether norms and divergence move with the routing shares and the loss.",
        (*TIERS, "norm", "divergence", "routing_weight", "loss"),
        lambda long, style, thresholds: run_dynamics.together(
            long, style, supported=thresholds.divergence_supported, refuted=thresholds.divergence_refuted
        ),
    ),
    "Divergence": View(
        "The documented score. Its thresholds are absolute: the scale of the loss moves the lines past them.",
        ("divergence",),
        lambda long, style, thresholds: run_dynamics.divergence(
            long, style, supported=thresholds.divergence_supported, refuted=thresholds.divergence_refuted
        ),
    ),
    "Direction": View(
        "0 means parallel to the clean expert's gradient, as all are where parameters are merged once per batch.",
        ("direction",),
        lambda long, style, thresholds: run_dynamics.direction(long, style),
    ),
    "Routing": View(
        "Each expert's share of the batch. A share near 1 means that the router has collapsed.",
        ("routing_weight",),
        lambda long, style, thresholds: run_dynamics.routing(long, style),
    ),
    "Loss": View(
        "Training loss of the logged batches.",
        ("loss",),
        lambda long, style, thresholds: run_dynamics.loss(long, style),
    ),
}


@dataclass(frozen=True, eq=False)
class Picture:
    """The rows of the chosen options, and their chart."""

    rows: pd.DataFrame
    chart: LineChart
    described: Described

    @classmethod
    def of(cls, run: Run, options: ChartOptions, thresholds: Thresholds) -> Picture:
        """Compute the rows and describe the chart, which takes a moment."""
        rows, style = line_rows(run, options, VIEWS[options.view].metrics, thresholds)
        chart = VIEWS[options.view].draw(rows, style, thresholds)
        return cls(rows, chart, describe(chart))


def scores(judgement: Judgement, run: Run) -> None:
    """The documented score of each perturbed expert against its thresholds, and how much was logged."""
    table = mean_scores(run)
    thresholds = judgement.verdict.thresholds
    meaning = (
        f"Mean over tiers and steps of |norm - norm of expert 0|, in loss / weight. As documented, above "
        f"{thresholds.divergence_supported:g} diverges, below {thresholds.divergence_refuted:g} does not. It scales "
        "with the loss and the routing share."
    )
    perturbed = table[table["role"] == "perturbed"]
    with st.container(horizontal=True):
        if len(perturbed) <= CARDS:
            for row in perturbed.itertuples():
                _card(f"Divergence score, expert {row.expert}", float(row.value), thresholds, meaning)
        elif perturbed["value"].notna().any():
            low, high = perturbed["value"].min(), perturbed["value"].max()
            st.metric(
                f"Divergence scores, {len(perturbed)} experts",
                f"{low:.3g} to {high:.3g}",
                border=True,
                width="content",
                help=meaning,
            )
        if (table["value"] > 0).any():
            ends = {"supported": thresholds.divergence_supported, "refuted": thresholds.divergence_refuted}
            chart = memoized(judgement, ("scores", run.id), lambda: describe(run_dynamics.scores(table, **ends)))
            with st.container(border=True, width=360, height="stretch"):
                draw(chart, key="scores", alt="Divergence score of each expert against its two thresholds")


def _card(label: str, mean: float, thresholds: Thresholds, meaning: str) -> None:
    known = np.isfinite(mean)
    st.metric(
        label,
        f"{mean:.3g}" if known else "none",
        delta=_place(mean, thresholds) if known else None,
        delta_color="off",
        delta_arrow="off",
        border=True,
        width="content",
        help=meaning,
    )


def _place(mean: float, thresholds: Thresholds) -> str:
    if mean > thresholds.divergence_supported:
        return f"above {thresholds.divergence_supported:g}"
    if mean < thresholds.divergence_refuted:
        return f"below {thresholds.divergence_refuted:g}"
    return f"between {thresholds.divergence_refuted:g} and {thresholds.divergence_supported:g}"


def choose_view() -> str:
    """What to look at."""
    view: str = st.segmented_control(
        "Show", list(VIEWS), default="Tier norms", required=True, key="view", wrap=True, bind="query-params"
    )
    return view


def choose_experts(run: Run) -> list[int]:
    """The experts whose lines are drawn: of many only the first few, until others are asked for."""
    if len(run.experts) <= AT_ONCE:
        return list(run.experts)
    controls = [expert.index for expert in run.of_role("control")][:1]
    first = [expert for expert in run.experts if expert not in controls][: AT_ONCE - len(controls)]
    return (
        st.multiselect(
            f"Experts drawn, of {len(run.experts)}",
            list(run.experts),
            default=first + controls,
            format_func=lambda expert: f"{expert} {run.experts[expert].role}",
            key=f"experts-{run.id}",
        )
        or first + controls
    )


def choose_axis(run: Run) -> str:
    """What the axis counts."""
    known = [name for name in AXES if np.isfinite(axis_values(run, name)).any()]
    unit: str = st.segmented_control(
        "Axis", known, default="Steps", required=True, key="axis", bind="query-params", help="Hours are wall time."
    )
    return unit


def choose_style() -> tuple[bool, bool]:
    """Whether a running median is to be drawn, and what the verdict sees."""
    smooth: bool = st.toggle(
        "Smooth",
        key="smooth",
        bind="query-params",
        help=f"A running median of {SMOOTH_WINDOW} logged steps or more, over the raw lines. The verdict ignores it.",
    )
    batches: bool = st.toggle(
        "Batches and warm-up",
        key="batches",
        bind="query-params",
        help="What the verdict sees: it leaves out the warm-up and cuts the rest into 20 equal batches. Each bar is "
        "the mean of one; of norms the geometric mean, since the verdict compares logarithms.",
    )
    return smooth, batches


def choose_range(judgement: Judgement, run: Run) -> tuple[float, float] | None:
    """The steps under the brush of the overview; None for all of them."""
    if len(run.steps) < OVERVIEW_FROM:
        return None
    event = draw(
        memoized(judgement, ("overview", run.id), lambda: describe(overview(run))),
        key=f"overview-{run.id}",
        on_select="rerun",
        selection_mode="range",
        alt="The whole run, to choose a range of steps from",
    )
    found = event["selection"].get("range", {}).get("step")
    return (float(found[0]), float(found[1])) if found else None


def chart(judgement: Judgement, run: Run, options: ChartOptions) -> None:
    """Draw the chart over the steps under the brush; a new brush runs only this part of the page again."""
    options = replace(options, steps=choose_range(judgement, run))
    thresholds = judgement.verdict.thresholds
    picture = memoized(judgement, (run.id, options), lambda: Picture.of(run, options, thresholds))
    draw(
        picture.described,
        width="stretch",
        key=f"dynamics-{options.view}",
        alt=f"{options.view} over {AXES[options.unit].lower()}",
    )
    st.caption(
        VIEWS[options.view].hint + " Pinch or Alt and scroll to zoom, drag to move, double-click to see all again."
    )
    export(picture, f"{run.id}-{options.view.lower().replace(' ', '-')}")


def overview(run: Run) -> alt.Chart:
    """Return the loss over the whole run, or a norm in a run without a loss."""
    return run_dynamics.overview(*overview_rows(run))


def export(picture: Picture, name: str) -> None:
    """The chart as a picture, and its rows as a table."""
    long, chart = picture.rows, picture.chart
    with st.container(horizontal=True):
        with st.popover("Export"):
            for label, ending, mime, made in (
                ("Rows as CSV", "csv", "text/csv", lambda: long.to_csv(index=False)),
                ("Rows as Parquet", "parquet", "application/octet-stream", lambda: _parquet(long)),
                ("Picture as SVG", "svg", "image/svg+xml", lambda: _picture(chart, "svg")),
                ("Picture as PNG", "png", "image/png", lambda: _picture(chart, "png")),
            ):
                # Running the page again for a download would lose a click that follows at once.
                st.download_button(label, made, f"{name}.{ending}", mime, on_click="ignore")
            st.caption("Rows as they are drawn: both extremes of each bucket. All rows are in the run file itself.")
        asked = st.toggle("Show the numbers", key="numbers-shown", help="The rows behind the chart, as a table.")
    if asked:  # and only then: they are as many bytes again as the chart
        show_table(long, key="numbers")


def _parquet(long: pd.DataFrame) -> bytes:
    target = io.BytesIO()
    long.to_parquet(target, index=False)
    return target.getvalue()


def _picture(chart: LineChart, kind: str) -> bytes:
    """On white, wide enough for a paper."""
    import vl_convert  # loads a JavaScript engine: only where there is something to draw

    with alt.data_transformers.enable("default", max_rows=None):
        whole = {**static_spec(chart.to_dict()), "background": "white"}
    for panel in whole.get("vconcat", [whole]):
        panel["width"] = 900
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(whole, scale=2, config=CONFIG, allowed_base_urls=[]))
    return str(vl_convert.vegalite_to_svg(whole, config=CONFIG, allowed_base_urls=[])).encode()
