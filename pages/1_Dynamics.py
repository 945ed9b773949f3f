"""Do the perturbed experts learn differently? The chart that the question is asked of."""

import numpy as np
import streamlit as st

from ui.shell import shell
from validation import charts
from validation.envelope import chart_series

MAX_POINTS = 2000  # per series; beyond it the smallest and largest value of each bucket are drawn

judgement, run = shell("Dynamics")
limits = judgement.verdict.thresholds

scores = {expert.expert: expert["divergence"] for expert in run.of_role("perturbed")}
with st.container(horizontal=True):
    for expert, score in scores.items():
        finite = score[np.isfinite(score)]
        st.metric(
            f"Divergence score, expert {expert}",
            f"{finite.mean():.3g}" if len(finite) else "none",
            border=True,
            width="content",
            help="Mean over tiers and steps of |norm - norm of expert 0|. As documented, above "
            f"{limits.divergence_supported:g} diverges, below {limits.divergence_refuted:g} does not. It scales with "
            "the loss and the routing share.",
        )
    st.metric("Logged steps", len(run.steps), border=True, width="content")

view = st.segmented_control(
    "Show",
    ["Tier norms", "By tier", "Divergence", "Direction", "Routing", "Loss"],
    default="Tier norms",
    required=True,
    key="view",
    bind="query-params",
)
if not len(run.steps):
    st.info(
        "This file has the right tables and no row in them, so there is nothing to draw. The Diagnostics page says why."
    )
    st.stop()

file = next(file for file in judgement.files if file.run == run.run)
long = chart_series(file, MAX_POINTS).to_pandas()
drawn = {
    "Tier norms": lambda: [charts.tier_norms(long)],
    "By tier": lambda: charts.tier_panels(long),
    "Divergence": lambda: [
        charts.divergence(long, supported=limits.divergence_supported, refuted=limits.divergence_refuted)
    ],
    "Direction": lambda: [charts.direction(long)],
    "Routing": lambda: [charts.routing(long)],
    "Loss": lambda: [charts.loss(run.steps, run.step_column("loss"))],
}
hints = {
    "Tier norms": "Blue is the clean expert, red and orange are the perturbed ones, grey a control; light is the top "
    "tier, dark the middle. Under soft merging a line's height is its routing share times the gradient: read the "
    "verdict, not the height.",
    "By tier": "The same lines, one panel per tier.",
    "Divergence": "The documented score. Its thresholds are absolute: the scale of the loss moves the lines past them.",
    "Direction": "0 means parallel to the clean expert's gradient. With merge: batch all experts share one gradient.",
    "Routing": "Each expert's share of the merge. A share near 1 means that the router has collapsed.",
    "Loss": "Training loss of the logged batches.",
}
needed = {"Divergence": "divergence", "Direction": "direction", "Routing": "routing_weight"}.get(view)
if needed and not long.loc[long["metric"] == needed, "value"].notna().any():
    st.info(f"This file does not log {needed.replace('_', ' ')}, so there is nothing to draw.")
    st.stop()
if view == "Loss" and not np.isfinite(run.step_column("loss")).any():
    st.info("This file does not log the loss, so there is nothing to draw.")
    st.stop()
for place, chart in enumerate(drawn[view]()):
    st.altair_chart(chart, key=f"dynamics-{view}-{place}", alt=f"{view} over training steps")
st.caption(hints[view] + " Shift and scroll to zoom, drag to move, double-click to reset.")
with st.expander("The numbers behind the chart"):
    st.dataframe(long, hide_index=True, key="numbers")
