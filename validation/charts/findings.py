"""The small chart beside a finding, by finding id: zero norms, missing rows, gaps, collapse and more (CHARTS)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from prismatic.contract.thresholds import Thresholds
from validation.analysis import series
from validation.analysis.cohort import measure_run
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array
from validation.charts import run_dynamics, theme
from validation.charts.lines import LineChart, draw_panels
from validation.charts.panels import Panel
from validation.diagnostics import COLLAPSED_SHARE, Finding
from validation.diagnostics.gradients import LOST, ORDER_FIXES
from validation.frames.downsample import FINDING_POINTS, gap_spans, min_max_indices, min_max_rows
from validation.frames.run_dynamics import TIER_METRICS, Style

MAX_EXPERTS = 3  # beside the clean one
FindingChart = LineChart | alt.Chart


def finding_chart(
    finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame | None = None
) -> FindingChart | None:
    """Return the chart of a finding about this run, or None if there is none. events: table `events` of the file."""
    if not len(run.steps) or finding.id not in CHARTS:
        return None
    return CHARTS[finding.id](finding, run, thresholds, pd.DataFrame() if events is None else events)


def _concerned(finding: Finding, run: Run) -> list[int]:
    """Return the clean expert and the expert of the finding, or the first few if it names none."""
    others = [expert for expert in run.experts if expert != 0]
    named = [finding.expert] if finding.expert in run.experts else others[:MAX_EXPERTS]
    return [expert for expert in (0, *named) if expert in run.experts]


def _style(run: Run) -> Style:
    return Style(gaps=gap_spans(run.steps))


def _norms(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    """Draw the norms of the clean expert and of the experts concerned."""
    return _norms_of(run, _concerned(finding, run))


def _own_norms(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    """Draw the norms of the expert of the finding alone; the clean expert if it names none."""
    return _norms_of(run, [finding.expert or 0])


def _norms_of(run: Run, experts: Sequence[int]) -> FindingChart:
    rows = min_max_rows(run, FINDING_POINTS, metrics=(*TIER_METRICS, "norm"), experts=experts)
    return run_dynamics.tier_norms(rows, _style(run), small=True)


def _logged_share(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    """Draw the share of rows with a value, by expert and norm."""
    rows = [
        {"expert": number, "norm": name.removesuffix("_norm"), "share": float(np.isfinite(expert[name]).mean())}
        for number, expert in list(run.experts.items())[:20]
        for name in ("top_norm", "bottom_norm", "middle_norm", "norm")
    ]
    x = alt.X("expert:N", title="Expert", axis=alt.Axis(labelAngle=0))
    y = alt.Y("norm:N", title=None, sort=["top", "bottom", "middle", "norm"])
    tooltip: list[Any] = [
        alt.Tooltip("expert:N", title="Expert"),
        alt.Tooltip("norm:N", title="Norm"),
        alt.Tooltip("share:Q", title="Rows with a value", format=".0%"),
    ]
    base = alt.Chart(pd.DataFrame(rows)).encode(x=x, y=y, tooltip=tooltip)
    boxes = base.mark_rect(stroke=theme.GREY, strokeWidth=1, fill=theme.GREY).encode(
        fillOpacity=alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0, 0.55]), legend=None)
    )
    labels = base.transform_filter("datum.share < 1").mark_text(color=theme.BAD, fontSize=12, fontWeight="bold")
    layers = [boxes, labels.encode(text=alt.Text("share:Q", format=".0%"))]
    return alt.LayerChart(layer=layers, height=theme.FINDING_HEIGHT)


def _missing_gradients(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    """Draw the number of parameter tensors without a gradient, over the steps."""
    count = run.step_column("missing_gradients")
    at = min_max_indices(count, FINDING_POINTS)
    data = pd.DataFrame({"step": run.steps[at], "tensors": count[at]})
    chart = alt.Chart(data, height=theme.FINDING_HEIGHT)
    area = chart.mark_area(color=theme.BAD, opacity=0.6, line=True, interpolate="step-after")
    encoded: alt.Chart = area.encode(
        x=alt.X("step:Q", title="Training step", scale=alt.Scale(nice=False)),
        y=alt.Y("tensors:Q", title="Tensors"),
    )
    return encoded


def _events(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart | None:
    """Draw the steps of lost rows and of corrected logging orders; other events belong to other findings."""
    codes = [*LOST, *ORDER_FIXES]
    own = events[events["code"].isin(codes) & events["step"].notna()] if "code" in events else events
    if own.empty:
        return None
    data = own[["step", "code"]].head(2000).reset_index(drop=True)
    chart = alt.Chart(data, height=theme.FINDING_HEIGHT).mark_tick(color=theme.BAD, thickness=2)
    ends = alt.Scale(domain=[int(run.steps[0]), int(run.steps[-1])])
    x, y = alt.X("step:Q", title="Training step", scale=ends), alt.Y("code:N", title=None)
    tooltip = [alt.Tooltip("step:Q", title="Step"), alt.Tooltip("code:N", title="Event")]
    encoded: alt.Chart = chart.encode(x=x, y=y, tooltip=tooltip)
    return encoded


def _off_grid(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    """Draw the steps of rows that are on the declared grid, and of those that are not."""
    on = run.steps % (run.every or 1) == 0
    parts = [
        pd.DataFrame({"step": steps, "row": row}) for steps, row in ((run.steps[on], "on"), (run.steps[~on], "off"))
    ]
    data = pd.concat([part.iloc[:: 1 + len(part) // 1000] for part in parts], ignore_index=True)
    chart = alt.Chart(data, height=theme.FINDING_HEIGHT)
    color = alt.ColorValue(theme.GREY, condition={"test": "datum.row == 'off'", "value": theme.BAD})
    x = alt.X("step:Q", title="Training step", scale=alt.Scale(nice=False))
    y = alt.Y("row:N", title="Declared grid", sort=["on", "off"])
    encoded: alt.Chart = chart.mark_tick(thickness=2).encode(x=x, y=y, color=color)
    return encoded


def _clock(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    """Draw the time at which each row was measured, and mark rows that are earlier than the row before."""
    wall_time = run.step_column("wall_time")
    known = np.isfinite(wall_time)
    hours = (wall_time[known] - np.nanmin(wall_time)) / 3600
    data = pd.DataFrame({"step": run.steps[known], "hours": hours, "earlier": np.diff(hours, prepend=-np.inf) < 0})
    x = alt.X("step:Q", title="Training step", scale=alt.Scale(nice=False))
    y = alt.Y("hours:Q", title="Hours since the first row")
    rows = alt.Chart(data.iloc[min_max_indices(hours, FINDING_POINTS)].reset_index(drop=True))
    earlier = alt.Chart(data[data["earlier"]].head(1000).reset_index(drop=True))
    layers = [
        rows.mark_line(color=theme.GREY, strokeWidth=1).encode(x=x, y=y),
        earlier.mark_point(color=theme.BAD, filled=True, size=40, opacity=1).encode(x=x, y=y),
    ]
    return alt.LayerChart(layer=layers, height=theme.FINDING_HEIGHT)


def _rows_by_bin(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart | None:
    """Draw the share of its planned rows that each bin of time has, and the share that it needs."""
    each = measure_run(run, thresholds)
    levels = each.levels(each.source)
    if levels is None:
        return None
    bins = levels.bins
    found_K = np.bincount(bins.place_T[bins.place_T >= 0], minlength=len(bins.rows_K))
    share_K = found_K / np.maximum(bins.rows_K, 1)
    data = pd.DataFrame({"bin": np.arange(1, len(share_K) + 1), "share": share_K, "missing": bins.missing_K})
    needed = alt.Chart(pd.DataFrame({"share": [thresholds.rows_share]}))
    color = alt.ColorValue(theme.GREY, condition={"test": "datum.missing", "value": theme.BAD})
    x = alt.X("bin:O", title="Bin of time", axis=alt.Axis(labelAngle=0))
    y = alt.Y("share:Q", title="Planned rows that are there", axis=alt.Axis(format=".0%", tickCount=5))
    layers = [
        alt.Chart(data).mark_bar().encode(x=x, y=y, color=color, tooltip=alt.Tooltip("share:Q", format=".0%")),
        needed.mark_rule(color=theme.BAD, strokeDash=theme.THRESHOLD_DASH, strokeWidth=2).encode(y=alt.Y("share:Q")),
    ]
    return alt.LayerChart(layer=layers, height=theme.FINDING_HEIGHT)


def _widest_gap(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    """Draw the number of logged rows over the steps, and shade the widest gap."""
    steps = run.steps.astype(float)
    counts, edges = np.histogram(steps, bins=60)
    widest = int(np.diff(steps).argmax())
    hole = pd.DataFrame({"from": [steps[widest]], "to": [steps[widest + 1]], "label": ["not logged"]})
    bars = alt.Chart(pd.DataFrame({"from": edges[:-1], "to": edges[1:], "rows": counts}))
    x = alt.X("from:Q", title="Training step", scale=alt.Scale(nice=False))
    shade = alt.Chart(hole)
    rows = alt.Y("rows:Q", title="Logged rows")
    layers = [
        bars.mark_bar(color=theme.GREY, binSpacing=1).encode(
            x=x, x2=alt.X2("to:Q"), y=rows, tooltip=alt.Tooltip("rows:Q", title="Logged rows")
        ),
        shade.mark_rect(color=theme.BAD, opacity=0.2).encode(x=x, x2=alt.X2("to:Q")),
        shade.transform_calculate(middle="(datum.from + datum.to) / 2")
        .mark_text(color=theme.BAD, fontSize=13, fontWeight="bold")
        .encode(x=alt.X("middle:Q"), text=alt.Text("label:N")),
    ]
    return alt.LayerChart(layer=layers, height=theme.FINDING_HEIGHT)


def _bullet(value: float, needed: float, title: str, label: str) -> FindingChart:
    """Draw a value as a bar, and the needed value as a mark with its label."""
    data = pd.DataFrame({"value": [value], "needed": [needed], "label": [label]})
    x = alt.X("value:Q", title=title, scale=alt.Scale(domain=[0, 1.15 * max(value, needed)], nice=False))
    base = alt.Chart(data)
    layers = [
        base.mark_bar(color=theme.GREY, size=20, yOffset=8).encode(x=x),  # below the label
        base.mark_rule(color=theme.BAD, strokeWidth=3).encode(x=alt.X("needed:Q")),
        base.mark_text(align="right", baseline="top", dx=-6, color=theme.BAD, fontSize=12).encode(
            x=alt.X("needed:Q"), y=alt.YValue(0), text=alt.Text("label:N")
        ),
    ]
    return alt.LayerChart(layer=layers, height=theme.BULLET_HEIGHT)


def _too_short(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    rows_K = (run.isolated or run).plan(thresholds.warmup).rows_K
    return _bullet(float((rows_K > 0).sum()), len(rows_K), "Bins of time with a planned row", f"{len(rows_K)} needed")


def _unfinished(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    return _bullet(float(run.steps[-1]), float(run.planned_steps), "Training step", f"{run.planned_steps:,} planned")


def _identical(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart | None:
    """Draw norms divided by those of the clean expert: 1 at every step means identical experts."""
    return _beside_clean(finding, run, run.experts, dict(TIER_METRICS), "Ratio to expert 0")


def _collinear(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart | None:
    """Draw norms and routing share divided by those of the clean expert: one line means one common gradient.

    Use the first layer if the file has layers: each layer has its own router, and means over layers are not collinear.
    """
    experts, where = (run.layers[0], ", first layer") if run.layers else (run.experts, "")
    parts = {**TIER_METRICS, "routing_weight": "whole"}
    return _beside_clean(finding, run, experts, parts, f"Ratio to expert 0{where}")


def _beside_clean(
    finding: Finding, run: Run, experts: Mapping[int, Expert], parts: dict[str, str], title: str
) -> FindingChart | None:
    """Draw metrics divided by those of the clean expert. parts: by metric, the part whose colour it has."""
    numbers = [expert for expert in _concerned(finding, run) if expert != 0 and expert in experts]
    if not numbers or 0 not in experts:
        return None
    rows = pd.concat(
        [
            _expert_rows(run, experts[e], metric, part, np.exp(experts[e].log(metric) - experts[0].log(metric)))
            for e in numbers[:2]
            for metric, part in parts.items()
        ],
        ignore_index=True,
    )
    rows = rows[rows.groupby(["expert", "metric"])["value"].transform(lambda values: values.notna().any())]
    return draw_panels([Panel(title, rows, log=True, include=(0.9, 1.1))], _style(run), small=True)


def _expert_rows(run: Run, expert: Expert, metric: str, part: str, values: Array) -> pd.DataFrame:
    """Return the rows of one line."""
    at = min_max_indices(values, FINDING_POINTS)
    line = {"expert": expert.index, "metric": metric, "series": theme.series_of(expert.role, expert.index, part)}
    return pd.DataFrame({**line, "step": run.steps[at], "value": values[at]})


def _collapse(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    """Draw the largest routing shares, and the share that counts as a collapse."""
    last = {e: float(np.nan_to_num(expert["routing_weight"])[-1]) for e, expert in run.experts.items()}
    largest = sorted(last, key=lambda expert: -last[expert])[: MAX_EXPERTS + 1]
    rows = min_max_rows(run, FINDING_POINTS, metrics=("routing_weight",), experts=sorted(largest))
    collapsed = ((COLLAPSED_SHARE, f"> {COLLAPSED_SHARE:.0%} collapsed"),)
    return draw_panels([replace(run_dynamics.routing_panel(rows), thresholds=collapsed)], _style(run), small=True)


def _shares(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    """Draw the routing shares of a few experts."""
    rows = min_max_rows(run, FINDING_POINTS, metrics=("routing_weight",), experts=_concerned(finding, run))
    return draw_panels([run_dynamics.routing_panel(rows)], _style(run), small=True)


def _scaled_score(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart:
    """Draw the mean divergence score as logged, and with the loss divided and multiplied by 10."""
    logged = [e for e in run.of_role("perturbed") if np.isfinite(e["divergence"]).any()][:MAX_EXPERTS]
    factors = {"loss / 10": 0.1, "as logged": 1.0, "loss x 10": 10.0}
    data = pd.DataFrame(
        [
            {"loss": name, "expert": e.index, "value": float(np.nanmean(e["divergence"])) * factor}
            for e in logged
            for name, factor in factors.items()
        ]
    )
    limits = [thresholds.divergence_refuted, thresholds.divergence_supported]
    marks = [*data["value"], *limits]
    axis = alt.Axis(values=limits, format="~g", grid=False)
    scale = alt.Scale(type="log", domain=[min(marks) / 1.5, max(marks) * 1.5], nice=False)
    x = alt.X("value:Q", title="Mean divergence score, log scale", scale=scale, axis=axis)
    y = alt.Y("loss:N", title=None, sort=list(factors))
    rules = alt.Chart(pd.DataFrame({"value": limits})).mark_rule(
        color=theme.GREY, strokeDash=theme.THRESHOLD_DASH, strokeWidth=1.5
    )
    points = alt.Chart(data).mark_point(filled=True, size=90, opacity=1, color=theme.BAD)
    tooltip = [
        alt.Tooltip("expert:N", title="Expert"),
        alt.Tooltip("loss:N", title="Scale"),
        alt.Tooltip("value:Q", title="Score (loss / weight)", format=".3g"),
    ]
    layers = [rules.encode(x=x), points.encode(x=x, y=y, tooltip=tooltip)]
    return alt.LayerChart(layer=layers, height=theme.FINDING_HEIGHT)


def _positive_control(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> FindingChart | None:
    """Draw the gain of the bottom tier beyond the middle tier, and the factor that the positive control applied."""
    factor = run.option("positive_control")
    perturbed = run.of_role("perturbed")[:MAX_EXPERTS]
    if factor is None or factor <= 0 or not perturbed or 0 not in run.experts:
        return None
    rows = [_expert_rows(run, e, "gain", "bottom", np.exp(series.bottom_gain(e, run.experts[0]))) for e in perturbed]
    panel = Panel(
        "Bottom beyond middle tier (factor)",
        pd.concat(rows, ignore_index=True),
        log=True,
        include=(1.0,),
        thresholds=((factor, f"{factor:g} applied"),),
    )
    return draw_panels([panel], _style(run), small=True)


CHARTS: dict[str, Callable[[Finding, Run, Thresholds, pd.DataFrame], FindingChart | None]] = {
    "zero_norms": _norms,
    "zero_tier": _own_norms,
    "nonfinite": _own_norms,
    "constant_rows": _norms,
    "missing_experts": _logged_share,
    "missing_columns": _logged_share,
    "missing_gradients": _missing_gradients,
    "rows_lost": _events,
    "logging_order": _events,
    "step_gaps": _widest_gap,
    "off_grid": _off_grid,
    "wall_time_falls": _clock,
    "rows_missing": _rows_by_bin,
    "too_short": _too_short,
    "unfinished": _unfinished,
    "identical_experts": _identical,
    "collinear_gradients": _collinear,
    "router_collapse": _collapse,
    "constant_shares": _shares,
    "not_a_control": _norms,
    "scale_dependent_threshold": _scaled_score,
    "positive_control": _positive_control,
}
