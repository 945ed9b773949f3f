"""The switch of the norms chart, as logged or beyond routing, and the sentence below the chart."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from ui.widgets.markdown import escape_markdown
from ui.widgets.memo import memoized
from validation.analysis.run import Run
from validation.frames.beyond_routing import can_divide
from validation.frames.norms import AS_LOGGED, BEYOND_ROUTING, norms_sentence
from validation.judgement.judge import Judgement


def choose_norms(run: Run, source: str) -> str:
    """Return AS_LOGGED or BEYOND_ROUTING; without a choice, and without the switch, if norms cannot be divided.

    It begins with the norms beyond routing, which the verdict is about.
    """
    if not can_divide(run.from_source(source)):
        return AS_LOGGED
    chosen: str = st.segmented_control(
        "Norms",
        [AS_LOGGED, BEYOND_ROUTING],
        default=BEYOND_ROUTING,
        required=True,
        key="norms",
        bind="query-params",
        label_visibility="collapsed",
        help="A gradient norm grows with the routing share of its expert. Beyond routing: each norm divided by the "
        "share, in each layer, then the mean over layers.",
    )
    return chosen


def norms_caption(judgement: Judgement, run: Run, experts: Sequence[int], source: str, norms: str) -> None:
    """Show one sentence with the measured factors between the norms of these experts."""
    warmup = judgement.verdict.thresholds.warmup
    key = ("norms sentence", run.id, tuple(experts), source, norms)
    seen = run.from_source(source)
    st.markdown(escape_markdown(memoized(judgement, key, lambda: norms_sentence(seen, experts, norms, warmup=warmup))))
