"""What a finding was found in, to be seen: one small chart for each kind of finding that a chart can show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from prismatic.contract.thresholds import Thresholds
from validation.analysis import series
from validation.analysis.run import Expert, Run
from validation.analysis.statistics import Array
from validation.charts import run_dynamics as charts
from validation.charts import theme
from validation.charts.lines import Drawing, draw
from validation.charts.panels import Panel, Style
from validation.diagnostics import COLLAPSED_SHARE, Finding
from validation.diagnostics.gradients import LOST, ORDER_FIXES
from validation.frames.downsample import drawn, gaps, places

POINTS = 500  # per series: the chart is small
SHOWN = 3  # experts beside the clean one
Evidence = Drawing | alt.Chart


def chart_of(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame | None = None) -> Evidence | None:
    """The chart of a finding about this run; None where no chart can show it. events: the table of the run's file."""
    if not len(run.steps) or finding.id not in CHARTS:
        return None
    return CHARTS[finding.id](finding, run, thresholds, pd.DataFrame() if events is None else events)


def _concerned(finding: Finding, run: Run) -> list[int]:
    """The clean expert and the one that the finding is about, or the first few."""
    others = [expert for expert in run.experts if expert != 0]
    named = [finding.expert] if finding.expert in run.experts else others[:SHOWN]
    return [expert for expert in (0, *named) if expert in run.experts]


def _style(run: Run) -> Style:
    holes = gaps(run.steps)
    steps = run.steps.astype(float)
    return Style(gaps=list(zip(steps[holes].tolist(), steps[holes + 1].tolist(), strict=True)))


def _norms(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence:
    """The norms themselves: zeros lie on a rail below, what is not finite on one above."""
    chosen = _concerned(finding, run)
    rows = drawn(run, POINTS, metrics=(*charts.TIER_METRICS, "norm"), experts=chosen)
    return charts.tier_norms(rows, _style(run), small=True)


def _own_norms(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence:
    """Of the expert alone that the finding is about; where none is named it is the clean one."""
    chosen = [finding.expert or 0]
    rows = drawn(run, POINTS, metrics=(*charts.TIER_METRICS, "norm"), experts=chosen)
    return charts.tier_norms(rows, _style(run), small=True)


def _there(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence:
    """How many rows have a value, by expert and norm."""
    rows = [
        {"expert": expert, "norm": name.removesuffix("_norm"), "share": float(np.isfinite(one[name]).mean())}
        for expert, one in list(run.experts.items())[:20]
        for name in ("top_norm", "bottom_norm", "middle_norm", "norm")
    ]
    x = alt.X("expert:N", title="Expert", axis=alt.Axis(labelAngle=0))
    y = alt.Y("norm:N", title=None, sort=["top", "bottom", "middle", "norm"])
    tooltip: list[Any] = [
        alt.Tooltip("expert:N"),
        alt.Tooltip("norm:N"),
        alt.Tooltip("share:Q", title="rows with a value", format=".0%"),
    ]
    base = alt.Chart(pd.DataFrame(rows)).encode(x=x, y=y, tooltip=tooltip)
    boxes = base.mark_rect(stroke=theme.GREY, strokeWidth=1, fill=theme.GREY).encode(
        fillOpacity=alt.FillOpacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0, 0.55]), legend=None)
    )
    words = base.transform_filter("datum.share < 1").mark_text(color=theme.BAD, fontSize=12, fontWeight="bold")
    return alt.LayerChart(
        layer=[boxes, words.encode(text=alt.Text("share:Q", format=".0%"))], height=theme.FINDING_HEIGHT
    )


def _without_gradient(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence:
    """How many parameter tensors had none, over the steps."""
    count = run.step_column("missing_gradients")
    at = places(count, POINTS)
    data = pd.DataFrame({"step": run.steps[at], "tensors": count[at]})
    chart = alt.Chart(data, height=theme.FINDING_HEIGHT).mark_area(
        color=theme.BAD, opacity=0.6, line=True, interpolate="step-after"
    )
    shown: alt.Chart = chart.encode(
        x=alt.X("step:Q", title="Training step", scale=alt.Scale(nice=False)),
        y=alt.Y("tensors:Q", title="Tensors without a gradient"),
    )
    return shown


def _events(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence | None:
    """When they happened; events of other kinds are other findings'."""
    codes = [*LOST, *ORDER_FIXES]
    own = events[events["code"].isin(codes) & events["step"].notna()] if "code" in events else events
    if own.empty:
        return None
    data = own[["step", "code"]].head(2000).reset_index(drop=True)
    chart = alt.Chart(data, height=theme.FINDING_HEIGHT).mark_tick(color=theme.BAD, thickness=2)
    ends = alt.Scale(domain=[int(run.steps[0]), int(run.steps[-1])])
    x, y = alt.X("step:Q", title="Training step", scale=ends), alt.Y("code:N", title=None)
    shown: alt.Chart = chart.encode(x=x, y=y, tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("code:N")])
    return shown


def _gap(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence:
    """How many rows there are along the training, and the stretch without any."""
    steps = run.steps.astype(float)
    counts, edges = np.histogram(steps, bins=60)
    widest = int(np.diff(steps).argmax())
    hole = pd.DataFrame({"from": [steps[widest]], "to": [steps[widest + 1]], "word": ["not logged"]})
    bars = alt.Chart(pd.DataFrame({"from": edges[:-1], "to": edges[1:], "rows": counts}))
    x = alt.X("from:Q", title="Training step", scale=alt.Scale(nice=False))
    shade = alt.Chart(hole)
    layers = [
        bars.mark_bar(color=theme.GREY, binSpacing=1).encode(
            x=x, x2=alt.X2("to:Q"), y=alt.Y("rows:Q", title="Logged rows"), tooltip=alt.Tooltip("rows:Q")
        ),
        shade.mark_rect(color=theme.BAD, opacity=0.2).encode(x=x, x2=alt.X2("to:Q")),
        shade.transform_calculate(middle="(datum.from + datum.to) / 2")
        .mark_text(color=theme.BAD, fontSize=13, fontWeight="bold")
        .encode(x=alt.X("middle:Q"), text=alt.Text("word:N")),
    ]
    return alt.LayerChart(layer=layers, height=theme.FINDING_HEIGHT)


def _bullet(value: float, wanted: float, title: str, word: str) -> Evidence:
    """How much there is of what is needed."""
    data = pd.DataFrame({"value": [value], "wanted": [wanted], "word": [word]})
    x = alt.X("value:Q", title=title, scale=alt.Scale(domain=[0, 1.15 * max(value, wanted)], nice=False))
    base = alt.Chart(data)
    layers = [
        base.mark_bar(color=theme.GREY, size=26).encode(x=x),
        base.mark_rule(color=theme.BAD, strokeWidth=3).encode(x=alt.X("wanted:Q")),
        base.mark_text(align="right", dx=-6, dy=-26, color=theme.BAD, fontSize=12).encode(
            x=alt.X("wanted:Q"), text=alt.Text("word:N")
        ),
    ]
    return alt.LayerChart(layer=layers, height=theme.BULLET_HEIGHT)


def _too_few(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence:
    usable = float(run.after_warmup(thresholds.warmup).sum())
    return _bullet(usable, thresholds.min_points, "Logged steps after the warm-up", f"{thresholds.min_points:g} needed")


def _progress(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence:
    return _bullet(float(run.steps[-1]), float(run.planned_steps), "Training step", f"{run.planned_steps:,} planned")


def _ratios(run: Run, experts: Mapping[int, Expert], numbers: Sequence[int], metrics: dict[str, str]) -> pd.DataFrame:
    """Each metric as a multiple of the clean expert's; metrics: by name, the part that it is drawn as."""
    rows = []
    for number in numbers:
        for metric, part in metrics.items():
            ratio = np.exp(experts[number].log(metric) - experts[0].log(metric))
            rows.append(_rows(run, experts[number], metric, part, ratio))
    return pd.concat(rows, ignore_index=True)


def _rows(run: Run, expert: Expert, metric: str, part: str, values: Array) -> pd.DataFrame:
    at = places(values, POINTS)
    return pd.DataFrame(
        {
            "expert": expert.index,
            "metric": metric,
            "series": f"{expert.role} {part}",
            "step": run.steps[at],
            "value": values[at],
        }
    )


def _twin(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence | None:
    """Norms as multiples of the clean expert's: 1 everywhere means that it is the clean expert."""
    return _beside_clean(finding, run, run.experts, dict(charts.TIER_METRICS), "As multiples of expert 0's")


def _one_gradient(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence | None:
    """Norms and routing share as multiples of the clean expert's: one line means one gradient.

    In one layer, as each has a router of its own: a mean of norms over layers is no share times one gradient.
    """
    experts, where = (run.layers[0], ", first layer") if run.layers else (run.experts, "")
    parts = {**charts.TIER_METRICS, "routing_weight": "whole"}
    return _beside_clean(finding, run, experts, parts, f"As multiples of expert 0's{where}")


def _beside_clean(
    finding: Finding, run: Run, experts: Mapping[int, Expert], parts: dict[str, str], title: str
) -> Evidence | None:
    numbers = [expert for expert in _concerned(finding, run) if expert != 0 and expert in experts]
    if not numbers or 0 not in experts:
        return None
    rows = _ratios(run, experts, numbers[:2], parts)
    rows = rows[rows.groupby(["expert", "metric"])["value"].transform(lambda values: values.notna().any())]
    return draw([Panel(title, rows, log=True, include=(0.9, 1.1))], _style(run), small=True)


def _collapse(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence:
    """Every expert's share, and where one counts as all."""
    last = {e: float(np.nan_to_num(one["routing_weight"])[-1]) for e, one in run.experts.items()}
    largest = sorted(last, key=lambda expert: -last[expert])[: SHOWN + 1]
    rows = drawn(run, POINTS, metrics=("routing_weight",), experts=sorted(largest))
    panel = replace(charts.shares(rows), thresholds=((COLLAPSED_SHARE, f"> {COLLAPSED_SHARE:.0%} collapsed"),))
    return draw([panel], _style(run), small=True)


def _scaled(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence:
    """The documented score as it is, and as it would be with another scale of the loss."""
    logged = [e for e in run.of_role("perturbed") if np.isfinite(e["divergence"]).any()][:SHOWN]
    rows = [
        {"loss": name, "expert": e.index, "value": float(np.nanmean(e["divergence"])) * factor}
        for e in logged
        for name, factor in (("loss / 10", 0.1), ("as logged", 1.0), ("loss x 10", 10.0))
    ]
    data = pd.DataFrame(rows)
    marks = [*data["value"], thresholds.divergence_refuted, thresholds.divergence_supported]
    ends = alt.Axis(values=[thresholds.divergence_refuted, thresholds.divergence_supported], format="~g", grid=False)
    scale = alt.Scale(type="log", domain=[min(marks) / 1.5, max(marks) * 1.5], nice=False)
    x = alt.X("value:Q", title="Mean divergence score, log scale", scale=scale, axis=ends)
    limit = alt.Chart(pd.DataFrame({"value": marks[-2:]})).mark_rule(
        color=theme.GREY, strokeDash=theme.THRESHOLD_DASH, strokeWidth=1.5
    )
    points = alt.Chart(data).mark_point(filled=True, size=90, opacity=1, color=theme.BAD)
    y = alt.Y("loss:N", title=None, sort=["loss / 10", "as logged", "loss x 10"])
    tooltip = [alt.Tooltip("expert:N"), alt.Tooltip("loss:N"), alt.Tooltip("value:Q", format=".3g")]
    return alt.LayerChart(
        layer=[limit.encode(x=x), points.encode(x=x, y=y, tooltip=tooltip)], height=theme.FINDING_HEIGHT
    )


def _put_in(finding: Finding, run: Run, thresholds: Thresholds, events: pd.DataFrame) -> Evidence | None:
    """What the bottom tier gained beyond the middle tier, beside the factor that was put in."""
    gain = run.number("config.positive_control")
    perturbed = run.of_role("perturbed")[:SHOWN]
    if gain is None or gain <= 0 or not perturbed or 0 not in run.experts:
        return None
    rows = [_rows(run, e, "gain", "bottom", np.exp(series.did(e, run.experts[0]))) for e in perturbed]
    panel = Panel(
        "Bottom beyond middle tier (factor)",
        pd.concat(rows, ignore_index=True),
        log=True,
        include=(1.0,),
        thresholds=((gain, f"{gain:g} put in"),),
    )
    return draw([panel], _style(run), small=True)


CHARTS: dict[str, Callable[[Finding, Run, Thresholds, pd.DataFrame], Evidence | None]] = {
    "zero_norms": _norms,
    "zero_tier": _own_norms,
    "nonfinite": _own_norms,
    "constant_rows": _norms,
    "missing_experts": _there,
    "missing_columns": _there,
    "missing_gradients": _without_gradient,
    "rows_lost": _events,
    "logging_order": _events,
    "step_gaps": _gap,
    "too_short": _too_few,
    "unfinished": _progress,
    "identical_experts": _twin,
    "collinear_gradients": _one_gradient,
    "router_collapse": _collapse,
    "scale_dependent_threshold": _scaled,
    "positive_control": _put_in,
}
