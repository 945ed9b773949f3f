"""The Dynamics page: gradient norms, divergence, routing and loss of one run over its steps."""

from functools import partial

import streamlit as st

from ui.layout.cards import choose_gradients
from ui.layout.shell import shell
from ui.sections.dynamics import (
    VIEWS,
    chart,
    choose_experts,
    choose_view,
    has_norms,
    scores,
)
from ui.widgets.fragments import fragment

judgement, run = shell("Dynamics")
with st.container(horizontal=True, vertical_alignment="bottom"):
    view = choose_view(run)
    source = choose_gradients(run)
seen = run.from_source(source)
if not len(run.steps):
    st.info("This file has no logged rows, so there is nothing to draw. The Diagnostics page says why.")
    st.stop()
if (missing := VIEWS[view].missing(seen)) is not None:
    st.info(f"This run did not log {missing}. Choose another view.")
elif "top_norm" in VIEWS[view].metrics and not has_norms(seen):
    st.info("No norm is above zero, so there is nothing to draw. The Diagnostics page says why.")
else:
    experts = choose_experts(seen) if VIEWS[view].by_expert else list(seen.experts)
    fragment(judgement, run, partial(chart, view=view, source=source, experts=tuple(experts)))
scores(judgement, run)
