"""The forest plot: an effect in each run and each group, against its margin."""

from __future__ import annotations

import math
from collections.abc import Sequence

import streamlit as st

from ui.sections.compare.claim import choose_claim
from ui.widgets.charts import Described, describe, draw
from ui.widgets.guard import guarded
from ui.widgets.memo import memoized
from validation.charts.comparison.forest import forest_chart
from validation.frames.comparison.forest import POOLED, Forest, effects_of, forest, in_order
from validation.judgement.judge import Judgement
from validation.text import sentence
from validation.verdict.groups import SHAM, Group
from validation.verdict.words.wording import PAIRS, QUANTITIES

RUNS_SHOWN = 60  # in all groups together, up to which each run has a line at first
GROUPS_PER_PAGE = 12
MAX_RUNS = 12  # lines of a group
MEANING = (
    "Diamond: a group over its seeds, with the interval that decides the claim. Dot: one run, with its interval over "
    "experts. Grey band: too small to count. Triangle: goes beyond the axis."
)
SHAMS = " Grey lines: sham runs, nothing perturbed."


@guarded
def forest_plots(judgement: Judgement) -> None:
    """Show the forest plot of each effect of the chosen claim."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        claim = choose_claim(judgement)
        each = st.toggle(
            "Each run",
            value=len(judgement.runs) <= RUNS_SHOWN,
            key="each",
            bind="query-params",
            help="A line for each run, or the groups alone",
        )
        groups = _page_of(in_order(judgement.verdict.groups))
    effects = effects_of(groups, claim)
    if not effects:
        st.info(f"These runs cannot be compared for {claim}. The Diagnostics page says what they lack.")
        return
    for effect in effects:
        st.markdown(f"**{sentence(QUANTITIES[effect])[:-1]}**")
        chart, alt = _drawing(judgement, groups, claim, effect, MAX_RUNS if each else 0)
        draw(chart, key=f"forest-{effect}", alt=alt)
    st.caption(MEANING + (SHAMS if any(group.role == SHAM for group in groups) else ""))


def _page_of(groups: Sequence[Group]) -> Sequence[Group]:
    """Return the groups to show, and let the reader turn to the others if there are too many."""
    pages = math.ceil(len(groups) / GROUPS_PER_PAGE)
    if pages == 1:
        return groups
    page = st.number_input(
        f"Page of {pages:,}, with {len(groups):,} groups", 1, pages, key="forest-page", bind="query-params", width=220
    )
    first = GROUPS_PER_PAGE * (int(page) - 1)
    return groups[first : first + GROUPS_PER_PAGE]


def _drawing(
    judgement: Judgement, groups: Sequence[Group], claim: str, effect: str, most_runs: int
) -> tuple[Described, str]:
    """Return the chart of an effect, and its text for screen readers."""

    def make() -> tuple[Described, str]:
        data = forest(judgement, groups, claim, effect, most_runs=most_runs)
        title, needed = _words(data)
        return describe(forest_chart(data, title, needed)), _as_text(data, claim, effect)

    return memoized(judgement, ("forest", claim, effect, most_runs, *(group.runs for group in groups)), make)


def _words(data: Forest) -> tuple[str, str]:
    """Return the title of the axis, and the words at the threshold."""
    if data.effect == PAIRS:
        return "1 - cosine between two experts", f"needed: {data.margin:.2f}"
    if not data.is_factor:
        return "1 - cosine, compared with the control", f"needed: {data.margin:+.2f}"
    return "factor, compared with the control", f"needed: {math.exp(data.margin):.2f}×"


def _as_text(data: Forest, claim: str, effect: str) -> str:
    pooled = data.rows[data.rows["kind"] == POOLED]
    numbers = [f"{name}: {text}" for name, text in zip(pooled["run"], pooled["text"], strict=True)]
    return f"{claim.capitalize()}, {QUANTITIES[effect]}. {'; '.join(numbers)}"
