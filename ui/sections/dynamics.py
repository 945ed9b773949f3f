"""The Dynamics page: views and their hints, divergence scores, options, brush and export; the norms chart of Home."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st

from prismatic.contract.thresholds import Thresholds
from ui.sections.norms import choose_norms, norms_caption
from ui.widgets.charts import Described, describe, draw
from ui.widgets.fragments import fragment
from ui.widgets.guard import guarded
from ui.widgets.markdown import escape_markdown
from ui.widgets.memo import memoized
from ui.widgets.tables import show_table
from validation.analysis.cohort import MeasuredRun
from validation.analysis.run import Run
from validation.charts import run_dynamics
from validation.charts.lines import LineChart
from validation.frames.downsample import SMOOTH_WINDOW
from validation.frames.norms import AS_LOGGED, experts_drawn
from validation.frames.run_dynamics import (
    TIER_METRICS,
    ChartOptions,
    Style,
    line_rows,
    mean_scores,
    overview_rows,
)
from validation.frames.x_axis import AXES, axis_values
from validation.judgement.judge import Judgement
from validation.report.figures import CONFIG, static_spec
from validation.text import pluralize, spaced

OVERVIEW_FROM = 1000  # logged steps from which the overview with its brush is shown
MAX_CARDS = 2  # experts up to which each has its own card
TIERS = tuple(TIER_METRICS)
ZOOM = " Pinch or Alt and scroll to zoom, drag to move, double-click to see all again."


@dataclass(frozen=True)
class View:
    """A view of a run: its hint, its metrics, and the function that draws it."""

    hint: str
    metrics: tuple[str, ...]
    draw: Callable[[pd.DataFrame, Style, Thresholds], LineChart]

    @property
    def by_expert(self) -> bool:
        """True if the view has a line for each expert."""
        return self.metrics != ("loss",)

    def missing(self, run: Run) -> str | None:
        """Return the metric that this view needs and the file lacks, in words; None if nothing is missing."""
        if run.source == "isolated" and self.metrics == ("routing_weight",):
            return "routing shares of isolated gradients, where each expert has the whole layer"
        columns = [run.step_column("loss")] if "loss" in self.metrics else []
        columns += [e[metric] for e in run.experts.values() for metric in self.metrics if metric != "loss"]
        logged = any(np.isfinite(values).any() for values in columns)
        return None if logged else spaced(self.metrics[0]).replace("loss", "the loss")


ROLE_COLORS = {"clean": "blue", "perturbed": "red and orange", "control": "grey"}
PEERS_HINT = "One line for each expert: the norm of its whole gradient. “By tier” shows the tiers."
OF_PEERS = {
    "Tier norms": PEERS_HINT,
    "By tier": "One panel per tier, with a line for each expert.",
    "Together": "Norms, routing shares and loss on one axis, to see if they move together.",
    "Direction": "0 means parallel to expert 0's gradient. In a training each expert may see tokens of its own.",
}
"""Hints of views of peers."""
VIEWS = {
    "Tier norms": View(
        "Light lines: top tier, the largest weights. Medium: bottom tier, the smallest. Dark: middle tier.",
        (*TIERS, "norm"),
        lambda long, style, thresholds: run_dynamics.tier_norms(long, style),
    ),
    "By tier": View(
        "The same lines, one panel per tier.",
        TIERS,
        lambda long, style, thresholds: run_dynamics.tier_panels(long, style),
    ),
    "Together": View(
        "Norms, divergence, routing shares and loss on one axis, to see if they move together.",
        (*TIERS, "norm", "divergence", "routing_weight", "loss"),
        lambda long, style, thresholds: run_dynamics.together(
            long, style, supported=thresholds.divergence_supported, refuted=thresholds.divergence_refuted
        ),
    ),
    "Divergence": View(
        "The documented score. Its thresholds are absolute, so the scale of the loss can move the lines past them.",
        ("divergence",),
        lambda long, style, thresholds: run_dynamics.divergence(
            long, style, supported=thresholds.divergence_supported, refuted=thresholds.divergence_refuted
        ),
    ),
    "Direction": View(
        "0 means parallel to the clean expert's gradient, as in runs that merge parameters once per batch.",
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
class ChartWithRows:
    """The rows for the chosen options, and their chart."""

    rows: pd.DataFrame
    chart: LineChart
    described: Described

    @classmethod
    def of(cls, each: MeasuredRun, options: ChartOptions, thresholds: Thresholds) -> ChartWithRows:
        """Compute the rows and describe the chart, which takes a moment."""
        rows, style = line_rows(each.run, options, VIEWS[options.view].metrics, each.levels(options.source))
        chart = VIEWS[options.view].draw(rows, style, thresholds)
        return cls(rows, chart, describe(chart))


def views_of(run: Run) -> list[str]:
    """Return the views of a run; the documented score is from a clean expert, which peers have not."""
    return [name for name in VIEWS if not (run.peers and name == "Divergence")]


def hint_of(view: str, run: Run) -> str:
    """Return the hint of a view."""
    return OF_PEERS.get(view, VIEWS[view].hint) if run.peers else VIEWS[view].hint


@guarded
def scores(judgement: Judgement, run: Run) -> None:
    """Show the documented divergence score of each perturbed expert against its thresholds; nothing for peers."""
    if run.peers or not has_norms(run):
        return
    table = mean_scores(run)
    thresholds = judgement.verdict.thresholds
    meaning = (
        f"Mean over tiers and steps of |norm - norm of expert 0|, in loss / weight; it scales with the loss and the "
        f"routing share. By the documented rule, experts diverge above {thresholds.divergence_supported:g} and do not "
        f"below {thresholds.divergence_refuted:g}."
    )
    perturbed = table[table["role"] == "perturbed"]
    with st.container(horizontal=True):
        if len(perturbed) <= MAX_CARDS:
            for row in perturbed.itertuples():
                _card(f"Divergence score, expert {row.expert}", float(row.value), thresholds, meaning)
        elif perturbed["value"].notna().any():
            low, high = perturbed["value"].min(), perturbed["value"].max()
            st.metric(
                f"Divergence scores, {len(perturbed)} perturbed experts",
                f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}",
                delta=f"{_place(low, thresholds)}" if _place(low, thresholds) == _place(high, thresholds) else None,
                delta_color="off",
                delta_arrow="off",
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
        height="stretch",
        help=meaning,
    )


def _place(mean: float, thresholds: Thresholds) -> str:
    if mean > thresholds.divergence_supported:
        return f"above {thresholds.divergence_supported:g}"
    if mean < thresholds.divergence_refuted:
        return f"below {thresholds.divergence_refuted:g}"
    return f"between {thresholds.divergence_refuted:g} and {thresholds.divergence_supported:g}"


def choose_view(run: Run) -> str:
    """Return the chosen view, a key of VIEWS."""
    view: str = st.segmented_control(
        "Show", views_of(run), default="Tier norms", required=True, key="view", wrap=True, bind="query-params"
    )
    return view


def choose_experts(run: Run) -> list[int]:
    """Return the experts to draw: with many experts the first few, until the user chooses others."""
    first = experts_drawn(run)
    if len(first) == len(run.experts):
        return first
    chosen = st.multiselect(
        f"Experts to draw, of {len(run.experts)}",
        list(run.experts),
        default=first,
        format_func=lambda expert: f"{expert}" if run.peers else f"{expert} {run.experts[expert].role}",
        key=f"experts-{run.id}",
    )
    return chosen or first


def choose_axis(run: Run) -> str:
    """Return the unit of the horizontal axis, a key of AXES."""
    known = [name for name in AXES if np.isfinite(axis_values(run, name)).any()]
    unit: str = st.segmented_control(
        "Axis", known, default="Steps", required=True, key="axis", bind="query-params", help="Hours are wall time."
    )
    return unit


def choose_style() -> tuple[bool, bool]:
    """Return two switches: draw running medians, and show bins and warm-up."""
    smooth: bool = st.toggle(
        "Smooth",
        key="smooth",
        bind="query-params",
        help=f"A running median of {SMOOTH_WINDOW} logged steps or more, over the raw lines. The verdict ignores it.",
    )
    bins: bool = st.toggle(
        "Bins and warm-up",
        key="bins",
        bind="query-params",
        help="The verdict skips the warm-up and cuts the rest of the planned training into six bins of equal time. "
        "Each bar is the mean of a bin: for norms the geometric mean, because the verdict compares logarithms.",
    )
    return smooth, bins


def choose_range(judgement: Judgement, run: Run) -> tuple[float, float] | None:
    """Return the range of steps under the brush of the overview; None for all."""
    if len(run.steps) < OVERVIEW_FROM:
        return None
    event = draw(
        memoized(judgement, ("overview", run.id), lambda: describe(overview(run))),
        key=f"overview-{run.id}",
        on_select="rerun",
        selection_mode="range",
        alt="The whole run, to choose a range of steps",
    )
    found = event["selection"].get("range", {}).get("step")
    return (float(found[0]), float(found[1])) if found else None


def chart(judgement: Judgement, run: Run, view: str, source: str, experts: tuple[int, ...]) -> None:
    """Draw the chart over the steps under the brush; its own options run only this part of the page again."""
    shows_norms = "top_norm" in VIEWS[view].metrics
    steps = choose_range(judgement, run)
    with st.container(horizontal=True, vertical_alignment="center"):
        norms = choose_norms(run, source) if shows_norms else AS_LOGGED
        with st.popover("Options", icon=":material/tune:"):
            unit = choose_axis(run)
            smooth, bins = choose_style()
    picture = lines(judgement, run, ChartOptions(view, source, experts, unit, smooth, bins, steps, norms))
    if shows_norms:
        norms_caption(judgement, run, experts, source, norms)
    st.caption(hint_of(view, run) + ZOOM)
    export(picture, f"{run.id}-{view.lower().replace(' ', '-')}")


def has_norms(run: Run) -> bool:
    """Return True if any norm of the run is above zero."""
    return any(bool((expert[norm] > 0).any()) for expert in run.experts.values() for norm in (*TIERS, "norm"))


def norms_of(judgement: Judgement, run: Run) -> None:
    """Show the norms of one run: what it is a picture of, the switch, the chart, and what the chart says."""
    if not has_norms(run):
        st.caption("No norm is above zero, so there is nothing to draw.")
        return
    fragment(judgement, run, _norms)


def _norms(judgement: Judgement, run: Run) -> None:
    experts = experts_drawn(run)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader("Gradient norms over training", anchor=False, width="content")
        norms = choose_norms(run, "merged")
    st.caption(escape_markdown(_about(judgement, run, experts)))
    lines(judgement, run, ChartOptions("Tier norms", "merged", tuple(experts), "Steps", False, False, norms=norms))
    norms_caption(judgement, run, experts, "merged", norms)


def _about(judgement: Judgement, run: Run, experts: Sequence[int]) -> str:
    """Return what the picture is of: one run, one of how many seeds, and how many of its experts are drawn."""
    seeds = len(judgement.group_of(run.id).runs)
    which = f"Run {run.id}" + (f", one of {seeds} seeds" if seeds > 1 else "")
    roles = Counter(run.experts[expert].role for expert in experts)
    named = (f"{count} {role} ({ROLE_COLORS[role]})" for role, count in roles.items() if role in ROLE_COLORS)
    drawn = "a colour each" if run.peers else ", ".join(named)
    count = pluralize(len(experts), "expert") + (f" of {len(run.experts)}" if len(experts) < len(run.experts) else "")
    return f"{which}. {count} drawn: {drawn}. {hint_of('Tier norms', run)}"


def lines(judgement: Judgement, run: Run, options: ChartOptions) -> ChartWithRows:
    """Draw the lines of a run; return them with their rows."""
    each = next(each for each in judgement.measured if each.run is run)
    thresholds = judgement.verdict.thresholds
    picture = memoized(judgement, (run.id, options), lambda: ChartWithRows.of(each, options, thresholds))
    draw(
        picture.described,
        width="stretch",
        key=f"dynamics-{options.view}",
        alt=f"{options.view} over {AXES[options.unit].lower()}",
    )
    return picture


def overview(run: Run) -> alt.Chart:
    """Return the loss over the whole run, or a norm in a run without a loss."""
    return run_dynamics.overview(*overview_rows(run))


def export(picture: ChartWithRows, name: str) -> None:
    """Show buttons to download the chart and its rows, and a switch to show the rows."""
    long, chart = picture.rows, picture.chart
    with st.container(horizontal=True, vertical_alignment="center"):
        with st.popover("Export", icon=":material/download:"):
            for label, ending, mime, make in (
                ("Rows as CSV", "csv", "text/csv", lambda: long.to_csv(index=False)),
                ("Rows as Parquet", "parquet", "application/octet-stream", lambda: _parquet(long)),
                ("Picture as SVG", "svg", "image/svg+xml", lambda: _picture(chart, "svg")),
                ("Picture as PNG", "png", "image/png", lambda: _picture(chart, "png")),
            ):
                # Without a rerun of the page, which would lose a click that follows at once.
                st.download_button(label, make, f"{name}.{ending}", mime, on_click="ignore")
            st.caption("Rows as drawn: the minimum and maximum of each bucket. The run file has all rows.")
        show_rows = st.toggle("Show the numbers", key="numbers-shown", help="The rows of the chart as a table.")
    if show_rows:  # off at first: the table is as many bytes again as the chart
        show_table(long, key="numbers")


def _parquet(long: pd.DataFrame) -> bytes:
    target = io.BytesIO()
    long.to_parquet(target, index=False)
    return target.getvalue()


def _picture(chart: LineChart, kind: str) -> bytes:
    """Return the chart on white, wide enough for a paper, as PNG or SVG."""
    import vl_convert  # loads a JavaScript engine, so only for an export

    with alt.data_transformers.enable("default", max_rows=None):
        spec = {**static_spec(chart.to_dict()), "background": "white"}
    for panel in spec.get("vconcat", [spec]):
        panel["width"] = 900
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(spec, scale=2, config=CONFIG, allowed_base_urls=[]))
    return str(vl_convert.vegalite_to_svg(spec, config=CONFIG, allowed_base_urls=[])).encode()
