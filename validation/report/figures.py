"""Pictures of a report as SVG that needs no script and no network: the app's own charts.

The style sheet of the report gives every colour a darker or a lighter twin, so that one picture serves both themes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from validation.analysis.run import Run
from validation.charts import claim_evidence as charts_evidence
from validation.charts import run_dynamics as charts
from validation.files.read_files import RunFile
from validation.frames.claim_evidence import behind
from validation.frames.downsample import chart_series, gaps
from validation.verdict.decide import Verdict

# The colours of .streamlit/config.toml, which an installed package does not have; a test compares them.
LIGHT = (
    *("#2c3d6c", "#064ca0", "#0266d6", "#40709a"),
    *("#6f2120", "#b04d54", "#fb605d", "#83400a"),
    *("#4a4f57", "#6b727c", "#8a919b", "#5a6069"),
)
DARK = (
    *("#3e7cd4", "#159bf7", "#7ebde4", "#5997bc"),
    *("#c74150", "#eb5a26", "#f99da0", "#f38651"),
    *("#7d848e", "#9aa1ab", "#bcc2ca", "#8b929c"),
)
INK, RULE = "#31333f", "#d5d8de"
DARK_INK, DARK_RULE = "#e2e4e9", "#3a3f49"
POINTS = 300  # per series: an SVG of more is larger and no clearer
WIDTH, HEIGHT = 440, 240
FONT = "Arial, Liberation Sans, sans-serif"  # of a known width: labels are placed before a browser draws them
_TEXT = {
    f"{part}{what}": value
    for part in ("label", "title")
    for what, value in (("Color", INK), ("FontSize", 12), ("Font", FONT))
}
CONFIG = {
    "background": None,
    "aria": False,
    "font": FONT,
    "range": {"category": list(LIGHT)},
    "mark": {"color": LIGHT[2]},
    "rule": {"color": INK},
    "text": {"color": INK, "fontSize": 12},
    "title": {"color": INK, "font": FONT},
    "view": {"stroke": None},
    "axis": _TEXT | {"gridColor": RULE, "domainColor": RULE, "tickColor": RULE, "titleFontWeight": "normal"},
    "axisY": {"tickCount": 5},
    "legend": _TEXT | {"orient": "bottom", "columns": 3, "symbolType": "stroke", "columnPadding": 16},
}


def recoloured() -> dict[str, str]:
    """By colour of a picture, what stands for it on a dark page."""
    return {**dict(zip(LIGHT, DARK, strict=True)), INK: DARK_INK, RULE: DARK_RULE}


def evidence(run: Run, file: RunFile, runs: Sequence[Run], verdict: Verdict) -> list[tuple[str, str]]:
    """The charts of one run as (what it shows, SVG): what each claim was decided from, then what was logged."""
    if not len(run.steps):
        return []
    charts_of_run = [*_decided_from(run, runs, verdict), *_logged(file, verdict)]
    return [(title, svg(chart)) for title, chart in charts_of_run]


def _decided_from(run: Run, runs: Sequence[Run], verdict: Verdict) -> list[tuple[str, charts.Drawing]]:
    """By claim that has an estimate, for the first perturbed expert that has one."""
    claims = [c for c in verdict.controlled.of(run.run) if c.estimate is not None]
    expert = next((c.expert for c in claims if c.expert is not None), None)
    if expert is None:
        return []
    decided = {c.claim for c in claims if c.expert == expert}
    found = behind(run, expert, runs, verdict.thresholds)
    what = f"expert {expert}: the series, the means of its batches, the interval and the threshold"
    return [(f"{n.capitalize()}, {what}", charts_evidence.evidence(one)) for n, one in found.items() if n in decided]


def _logged(file: RunFile, verdict: Verdict) -> list[tuple[str, charts.Drawing]]:
    """What the file has numbers for."""
    long, limits = chart_series(file, POINTS).to_pandas(), verdict.thresholds
    steps = file.wide["step"].to_numpy()
    holes = gaps(steps)
    style = charts.Style(gaps=list(zip(steps[holes].tolist(), steps[holes + 1].tolist(), strict=True)))
    has = set(long.loc[long["value"].notna(), "metric"])
    found: list[tuple[str, charts.Drawing]] = []
    if has & {*charts.TIER_METRICS, "norm"}:
        found.append(("Gradient norms by expert and tier", charts.tier_norms(long, style)))
    if "divergence" in has:
        chart = charts.divergence(long, style, supported=limits.divergence_supported, refuted=limits.divergence_refuted)
        found.append(("The documented divergence score, with its two thresholds", chart))
    if "direction" in has:
        found.append(("Direction: 1 - cosine to the clean expert's gradient", charts.direction(long, style)))
    if "routing_weight" in has:
        found.append(("Routing shares", charts.routing(long, style)))
    return found


def dose_response(verdict: Verdict, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """A chart per claim that has a dose-response: a point per run, a line through the means."""
    scales = {run.run: run.number("config.perturbation_scale") for run in runs}
    found = []
    for dose in verdict.doses:
        rows = [
            {"scale": scales[run], "effect": float(np.mean(list(parts.values())))}
            for group in verdict.groups
            if group.ladder == dose.options and group.role != "positive_control"
            for run, parts in group.values.get(dose.claim, {}).items()
            if parts and scales.get(run) is not None
        ]
        x = alt.X("scale:Q", title="perturbation_scale")
        y = alt.Y("effect:Q", title=f"{dose.claim.capitalize()} ({dose.unit})", axis=alt.Axis(format="~g"))
        points = alt.Chart(pd.DataFrame(rows)).mark_point(filled=True, size=36, opacity=0.8).encode(x=x, y=y)
        means = alt.Chart(pd.DataFrame(rows)).mark_line().encode(x=x, y=alt.Y("mean(effect):Q"))
        found.append(
            (
                f"{dose.title} over perturbation_scale: a point per run, a line of means",
                svg(alt.layer(points, means)),
            )
        )
    return found


def can_draw() -> bool:
    """Whether the library is there that turns charts into SVG."""
    try:
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def svg(chart: charts.Drawing | alt.FacetChart) -> str:
    """A chart without what only a mouse can use."""
    import vl_convert  # loads a JavaScript engine: only where there is something to draw

    spec = still(chart.to_dict())
    spec |= {"width": WIDTH, "height": HEIGHT, "autosize": {"type": "pad"}}
    drawn: str = vl_convert.vegalite_to_svg(spec, config=CONFIG, allowed_base_urls=[])
    return drawn


def still(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A chart's description without selections, and without the layers that only show under the pointer."""
    kept = {key: value for key, value in spec.items() if key != "params"}
    if "layer" in spec:
        kept["layer"] = [still(layer) for layer in spec["layer"] if not _waits_for_a_pointer(layer)]
    if "vconcat" in spec:
        kept["vconcat"] = [still(panel) for panel in spec["vconcat"]]
    return kept


def _waits_for_a_pointer(layer: Mapping[str, Any]) -> bool:
    opacity = layer.get("encoding", {}).get("opacity", {})
    return "condition" in opacity and opacity.get("value") == 0
