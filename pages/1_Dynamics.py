"""Do the perturbed experts learn differently? The chart that the question is asked of."""

import streamlit as st

from ui.draw import draw
from ui.dynamics import VIEWS, chosen_range, chosen_style, export, on_axis, scores
from ui.shell import shell
from validation import charts
from validation.envelope import chart_series

MAX_POINTS = 2000  # per series; beyond it the smallest and largest value of each bucket are drawn

judgement, run = shell("Dynamics")
limits = judgement.verdict.thresholds
scores(run, limits)
view = st.segmented_control("Show", list(VIEWS), default="Tier norms", required=True, key="view", bind="query-params")
if not len(run.steps):
    st.info(
        "This file has the right tables and no row in them, so there is nothing to draw. The Diagnostics page says why."
    )
    st.stop()
if (missing := VIEWS[view].missing(run)) is not None:
    st.info(f"This file does not log {missing}, so there is nothing to draw.")
    st.stop()

style, unit = chosen_style(run)
file = next(file for file in judgement.files if file.run == run.run)
steps = chosen_range(run)
long = on_axis(chart_series(file, MAX_POINTS, steps).to_pandas(), run, unit)
drawn = {
    "Tier norms": lambda: [charts.tier_norms(long, style)],
    "By tier": lambda: charts.tier_panels(long, style),
    "Divergence": lambda: [
        charts.divergence(long, style, supported=limits.divergence_supported, refuted=limits.divergence_refuted)
    ],
    "Direction": lambda: [charts.direction(long, style)],
    "Routing": lambda: [charts.routing(long, style)],
    "Loss": lambda: [charts.loss(*VIEWS["Loss"].of_step(run, unit, steps), style)],
}[view]()
for place, chart in enumerate(drawn):
    draw(chart, key=f"dynamics-{view}-{place}", alt=f"{view} over {style.axis.lower()}")
st.caption(VIEWS[view].hint + " Shift and scroll to zoom, drag to move, double-click to reset.")
export(drawn, long, run, view)
with st.expander("The numbers behind the chart"):
    st.dataframe(long, hide_index=True, key="numbers")
