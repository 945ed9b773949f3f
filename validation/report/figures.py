"""Pictures of a report as SVG that needs no script and no network: the app's own charts.

The style sheet of the report gives every colour a darker or a lighter twin, so that one picture serves both themes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from validation.analysis.run import Run
from validation.charts import run_comparison, run_dynamics, theme
from validation.charts.claim_evidence import evidence as evidence_chart
from validation.charts.lines import Drawing
from validation.charts.panels import Style
from validation.files.run_file import RunFile
from validation.frames.claim_evidence import behind
from validation.frames.downsample import chart_series, gaps
from validation.frames.run_comparison import of_doses
from validation.verdict.decide import Verdict

POINTS = 300  # per series: an SVG of more is larger and no clearer
FONT = "Arial, Liberation Sans, sans-serif"  # of a known width: labels are placed before a browser draws them
_TEXT = {
    f"{part}{what}": value
    for part in ("label", "title")
    for what, value in (("Color", theme.TEXT), ("FontSize", 12), ("Font", FONT))
}
CONFIG = {
    "background": None,
    "aria": False,
    "font": FONT,
    "range": {"category": list(theme.LIGHT)},
    "mark": {"color": theme.LIGHT[2]},
    "rule": {"color": theme.TEXT},
    "text": {"color": theme.TEXT, "fontSize": 12},
    "title": {"color": theme.TEXT, "font": FONT},
    "view": {"stroke": None},
    "axis": _TEXT
    | dict.fromkeys(("gridColor", "domainColor", "tickColor"), theme.GRID)
    | {"titleFontWeight": "normal"},
    "axisY": {"tickCount": 5},
    "legend": _TEXT | {"orient": "bottom", "columns": 3, "symbolType": "stroke", "columnPadding": 16},
}


def evidence(run: Run, file: RunFile, runs: Sequence[Run], verdict: Verdict) -> list[tuple[str, str]]:
    """The charts of one run as (what it shows, SVG): what each claim was decided from, then what was logged."""
    if not len(run.steps):
        return []
    charts_of_run = [*_decided_from(run, runs, verdict), *_logged(file, verdict)]
    return [(title, svg(chart)) for title, chart in charts_of_run]


def _decided_from(run: Run, runs: Sequence[Run], verdict: Verdict) -> list[tuple[str, Drawing]]:
    """By claim that has an estimate, for the first perturbed expert that has one."""
    claims = [c for c in verdict.controlled.of(run.id) if c.estimate is not None]
    expert = next((c.expert for c in claims if c.expert is not None), None)
    if expert is None:
        return []
    decided = {c.name for c in claims if c.expert == expert}
    found = behind(run, expert, runs, verdict.thresholds)
    what = f"expert {expert}: the series, the means of its batches, the interval and the threshold"
    return [(f"{n.capitalize()}, {what}", evidence_chart(one)) for n, one in found.items() if n in decided]


def _logged(file: RunFile, verdict: Verdict) -> list[tuple[str, Drawing]]:
    """What the file has numbers for."""
    long, thresholds = chart_series(file, POINTS).to_pandas(), verdict.thresholds
    steps = file.wide["step"].to_numpy()
    holes = gaps(steps)
    style = Style(gaps=list(zip(steps[holes].tolist(), steps[holes + 1].tolist(), strict=True)))
    has = set(long.loc[long["value"].notna(), "metric"])
    found: list[tuple[str, Drawing]] = []
    if has & {*run_dynamics.TIER_METRICS, "norm"}:
        found.append(("Gradient norms by expert and tier", run_dynamics.tier_norms(long, style)))
    if "divergence" in has:
        ends = {"supported": thresholds.divergence_supported, "refuted": thresholds.divergence_refuted}
        chart = run_dynamics.divergence(long, style, **ends)
        found.append(("The documented divergence score, with its two thresholds", chart))
    if "direction" in has:
        found.append(("Direction: 1 - cosine to the clean expert's gradient", run_dynamics.direction(long, style)))
    if "routing_weight" in has:
        found.append(("Routing shares", run_dynamics.routing(long, style)))
    return found


def dose_response(verdict: Verdict, runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return the title and the SVG of each dose-response chart."""
    found = []
    for dose in verdict.doses:
        chart = run_comparison.doses(dose, *of_doses(dose, verdict.groups, runs))
        what = "a line per seed, the mean over seeds with its interval, the mean slope dashed"
        found.append((f"{dose.title} over perturbation_scale: {what}", svg(chart)))
    return found


def can_draw() -> bool:
    """Whether the library is there that turns charts into SVG."""
    try:
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def svg(chart: Drawing | alt.FacetChart) -> str:
    """A chart without what only a mouse can use."""
    import vl_convert  # loads a JavaScript engine: only where there is something to draw

    spec, (width, height) = still(chart.to_dict()), theme.REPORT_SIZE
    spec |= {"width": width, "height": height, "autosize": {"type": "pad"}}
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
