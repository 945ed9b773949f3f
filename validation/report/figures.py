"""The charts of the HTML report as SVG: the app's charts without selections, with the fonts and axes of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt

from validation.analysis.cohort import MeasuredRun
from validation.analysis.distinct import DIRECTION, OUTPUTS
from validation.analysis.run import Run
from validation.charts import run_dynamics, theme
from validation.charts.claim_evidence import evidence_chart
from validation.charts.comparison.dose import dose_response as dose_chart
from validation.charts.comparison.outcome import outcome_chart
from validation.charts.expert_pairs import pair_matrix
from validation.charts.lines import LineChart
from validation.files.run_file import RunFile
from validation.frames.beyond_routing import can_divide, divide_by_shares
from validation.frames.claim_evidence import claim_evidence
from validation.frames.comparison.dose import dose_effects
from validation.frames.comparison.outcome import outcome_rows
from validation.frames.downsample import REPORT_POINTS, chart_series, gap_spans, min_max_rows
from validation.frames.expert_pairs import PAIR_MEASURES, last_third, pair_range
from validation.frames.norms import AS_LOGGED, BEYOND_ROUTING, TITLES, experts_drawn, norms_sentence, norms_title
from validation.frames.run_dynamics import TIER_METRICS, Style
from validation.judgement.judge import Judgement
from validation.verdict.claims import Claim
from validation.verdict.decide import Verdict
from validation.verdict.groups import Group

MATRIX_SIZE = 330  # pixels of a matrix of experts
MOST_WITH_OUTPUTS = 24  # experts: a cell takes some hundred bytes, and there is one for each two of them
FONT = "Arial, Liberation Sans, sans-serif"  # their width must be known, because labels are placed here
OUTCOMES = 4  # groups whose outcome is drawn
_TEXT = {
    f"{part}{what}": value
    for part in ("label", "title")
    for what, value in (("Color", theme.TEXT), ("FontSize", 12), ("Font", FONT))
}
CONFIG = {
    "background": None,
    "aria": False,
    "font": FONT,
    "range": {"category": list(theme.LIGHT), "ramp": list(theme.REPORT_RAMP)},
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


def evidence(judgement: Judgement, run: Run, file: RunFile) -> list[tuple[str, str]]:
    """Return (title, SVG) of the charts of one run: the effects that its claims are about, then the logged metrics."""
    if not len(run.steps):
        return []
    own = [each for each in judgement.measured if each.run is run]
    charts = _effects(judgement, own, [*judgement.verdict.judged(run.id).values()], "expert")
    drawn = [(title, svg(chart)) for title, chart in [*charts, *_logged_metrics(file, run, judgement.verdict)]]
    return drawn + _pairs(own, judgement.verdict.thresholds.divergence_direction)


def _pairs(runs: Sequence[MeasuredRun], margin: float) -> list[tuple[str, str]]:
    """Return the matrices of pairs of experts in the last third of a run; of many experts the direction alone."""
    found: list[tuple[str, str]] = []
    for levels in [each.pairs for each in runs if each.pairs is not None]:
        for measure in (DIRECTION, OUTPUTS):
            frames = last_third(levels, measure)
            if frames is None or (found and len(frames.experts) > MOST_WITH_OUTPUTS):
                continue
            about = PAIR_MEASURES[measure]
            high = pair_range(frames, margin)[1]
            chart = pair_matrix(frames.at(0), frames.experts, measure, high).properties(width=MATRIX_SIZE)
            words = f"{about.meaning[:1].lower()}{about.meaning[1:]}"
            title = f"{about.title} of each two experts in the last third, mean over layers: {words}"
            found.append((title, svg(chart, height=MATRIX_SIZE)))
    return found


def evidence_over_seeds(judgement: Judgement, group: Group) -> list[tuple[str, str]]:
    """Return (title, SVG) of the effects that the claims over the seeds of a group are about; empty for one run."""
    members = judgement.members_of(group)
    charts = _effects(judgement, members, judgement.verdict.shown(group), "seed") if len(members) > 1 else []
    return [(f"{title} ({group.name})", svg(chart)) for title, chart in charts]


def _effects(
    judgement: Judgement, runs: Sequence[MeasuredRun], claims: Sequence[Claim], unit: str
) -> list[tuple[str, LineChart]]:
    found = claim_evidence(runs, claims, judgement.cohort, judgement.verdict.thresholds)
    shown = f"a line per {unit}, their mean, the interval and the threshold"
    return [
        (f"{n.capitalize()}, {shown}", evidence_chart(effect)) for n, effects in found.items() for effect in effects
    ]


def _logged_metrics(file: RunFile, run: Run, verdict: Verdict) -> list[tuple[str, LineChart]]:
    """Return a chart for each group of metrics of which the file has values."""
    long, thresholds = chart_series(file, REPORT_POINTS).to_pandas(), verdict.thresholds
    if run.peers:
        long = long[long["expert"].isin([-1, *experts_drawn(run)])]
    style = Style(gaps=gap_spans(file.wide["step"].to_numpy()), height=theme.REPORT_SIZE[1])
    has = set(long.loc[long["value"].notna(), "metric"])
    found: list[tuple[str, LineChart]] = []
    if has & {*TIER_METRICS, "norm"}:
        found += _norms(run, style, thresholds.warmup)
    if "divergence" in has and not run.peers:
        ends = {"supported": thresholds.divergence_supported, "refuted": thresholds.divergence_refuted}
        chart = run_dynamics.divergence(long, style, **ends)
        found.append(("The documented divergence score, with its two thresholds", chart))
    if "direction" in has:
        whose = "expert 0's" if run.peers else "the clean expert's"
        found.append((f"Direction: 1 - cosine to {whose} gradient", run_dynamics.direction(long, style)))
    if "routing_weight" in has:
        found.append(("Routing shares", run_dynamics.routing(long, style)))
    return [(title, chart.properties(width=theme.REPORT_LINES_WIDTH)) for title, chart in found]


def _norms(run: Run, style: Style, warmup: float) -> list[tuple[str, LineChart]]:
    """Return the norms as logged, and beyond routing where the shares are logged; of many experts the first few."""
    experts, found = experts_drawn(run), []
    of_many = (
        f" of experts {', '.join(map(str, experts))} of {len(run.experts)}" if len(experts) < len(run.experts) else ""
    )
    for norms in TITLES if can_divide(run) else (AS_LOGGED,):
        shown = divide_by_shares(run, experts) if norms == BEYOND_ROUTING else run
        metrics = ["norm"] if run.peers else [*TIER_METRICS, "norm"]
        rows = min_max_rows(shown, REPORT_POINTS, metrics=metrics, experts=experts)
        words = norms_sentence(run, experts, norms, warmup=warmup)
        title = f"Gradient norms{'' if run.peers else ' by tier'}{of_many}: {words[:1].lower()}{words[1:]}"
        found.append((title, run_dynamics.tier_norms(rows, replace(style, norm=norms_title(run, norms)))))
    return found


def dose_response(verdict: Verdict) -> list[tuple[str, str]]:
    """Return the title and the SVG of each dose-response chart."""
    found = []
    for dose in verdict.doses:
        chart = dose_chart(dose, *dose_effects(dose, verdict.thresholds.alpha))
        what = "a line per seed, the mean over seeds with its interval, the mean slope dashed"
        found.append((f"{dose.title} over perturbation_scale: {what}", svg(chart)))
    return found


def outcomes(verdict: Verdict) -> list[tuple[str, str]]:
    """Return the title and the SVG of the outcome of the first groups that the verdict is about."""
    groups = [group for group in verdict.deciding if group.outcome is not None][:OUTCOMES]
    if not groups:
        return []
    chart = outcome_chart(*outcome_rows(groups))
    return [
        ("Held-out loss, compared with the sham run: a dot per seed, the mean over seeds with its interval", svg(chart))
    ]


def can_draw() -> bool:
    """Return whether vl-convert is installed, the library that turns charts into SVG."""
    try:
        import vl_convert  # noqa: F401
    except ImportError:
        return False
    return True


def svg(chart: LineChart | alt.FacetChart, height: int = theme.REPORT_SIZE[1]) -> str:
    """Return a chart as SVG."""
    import vl_convert  # slow to load: it holds a JavaScript engine

    spec = static_spec(chart.to_dict())
    spec |= {
        "width": spec.get("width", theme.REPORT_SIZE[0]),
        "height": min(spec.get("height", height), height),
        "autosize": {"type": "pad"},
    }
    drawn: str = vl_convert.vegalite_to_svg(spec, config=CONFIG, allowed_base_urls=[])
    return drawn


def static_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a chart's Vega-Lite spec without selections and without layers that appear only under the pointer."""
    kept = {key: value for key, value in spec.items() if key != "params"}
    if "layer" in spec:
        kept["layer"] = [static_spec(layer) for layer in spec["layer"] if not _is_hover_layer(layer)]
    if "vconcat" in spec:
        kept["vconcat"] = [static_spec(panel) for panel in spec["vconcat"]]
    return kept


def _is_hover_layer(layer: Mapping[str, Any]) -> bool:
    opacity = layer.get("encoding", {}).get("opacity", {})
    return "condition" in opacity and opacity.get("value") == 0
