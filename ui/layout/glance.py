"""The verdict at a glance: a banner, the next step, a row for each claim, and the documented reading.

Words from files are escaped: they are never markup.
"""

from __future__ import annotations

from dataclasses import replace
from html import escape

import streamlit as st

from ui.layout.method import method_panel
from ui.layout.shell import shown_badge
from ui.widgets.guard import guarded
from ui.widgets.markdown import escape_markdown, markdown_sentence
from validation.charts.interval_bar import interval_bar, slim_bar
from validation.charts.theme import STATUSES
from validation.judgement.glance import GROUPS_LISTED, Glance, Row, Step
from validation.judgement.judge import Judgement
from validation.method.terms import explain
from validation.text import sentence
from validation.verdict.claims import Claim
from validation.verdict.words.statuses import Shown
from validation.verdict.words.wording import ends, estimated, has_interval, needed, placed, quantity

WIDTHS = (4, 5, 7, 5)  # of the columns: claim, status, estimate, reason
QUIET = "color:color-mix(in srgb,currentColor 72%,transparent)"


@guarded
def banner(glance: Glance) -> None:
    """Show the status with its icon, the headline and the sentence with the numbers that decide."""
    st.html(f"<style>.st-key-banner {{ --status: {STATUSES[glance.shown.kind]} }}</style>")
    with st.container(key="banner", gap="xxsmall"):
        shown_badge(replace(glance.shown, word=glance.shown.word.upper()))
        st.header(escape_markdown(glance.headline), anchor=False)
        st.markdown(escape_markdown(glance.sentence))
        for note in glance.notes:
            st.markdown(f"**{markdown_sentence(note)}**")


@guarded
def next_step(step: Step) -> None:
    """Show the next step and the command that does it."""
    with st.container(border=True, key="next-step", gap="xsmall"):
        st.markdown(f":blue[**Next step**] {escape_markdown(step.text)}")
        if step.command:
            st.code(step.command, language=None, wrap_lines=True)
        if step.cost:
            st.caption(escape_markdown(step.cost))


@guarded
def claims_table(judgement: Judgement, glance: Glance) -> None:
    """Show a row for each claim, then the documented reading in one muted line."""
    with st.container(key="claims-table", gap="small"):
        for row in glance.rows:
            with st.container(border=True):
                _row(judgement, row)
    if glance.documented:
        st.caption(escape_markdown(glance.documented))


def _row(judgement: Judgement, row: Row) -> None:
    claim, status, estimate, reason = st.columns(WIDTHS, gap="small", vertical_alignment="center")
    with claim, st.container(gap=None):
        st.markdown(f"**{row.claim.name.capitalize()}**", help=explain(row.claim.name))
        st.caption(row.question)
    with status, st.container(gap="xsmall"):
        shown_badge(row.shown)
        method_panel(judgement, row.claim)
    with estimate:
        st.html(_groups(row) if row.groups else estimate_html(row.claim, STATUSES[row.shown.kind]))
    with reason:
        st.markdown(markdown_sentence(row.reason))


def estimate_html(claim: Claim, color: str) -> str:
    """Return the estimate of a claim with its interval, what it is, and a picture of both against the threshold."""
    if claim.estimate is None:
        return f'<span style="{QUIET}">No estimate.</span>'
    interval = ends(claim) or "no interval"
    text = f"<strong>{escape(placed(claim))}</strong> <span>{escape(interval)}</span>"
    bar = interval_bar(claim, color) if has_interval(claim) else None
    about = quantity(claim) if bar else f"{quantity(claim)}; needed: {needed(claim)}"
    return f'{text}<br><small style="{QUIET}">{escape(sentence(about))}</small>{bar or ""}'


def _groups(row: Row) -> str:
    """Return the estimates of several experiments, each with its status and its bar, and what they are."""
    claims = [claim for _, claim, _ in row.groups]
    about = {f"{quantity(claim)}; needed: {needed(claim)}" for claim in claims if claim.estimate is not None}
    parts = [_group(*each, bar=len(about) == 1) for each in row.groups[:GROUPS_LISTED]]
    more = len(claims) - GROUPS_LISTED
    notes = [sentence(each) for each in about if len(about) == 1]
    notes += [f"And {more:,} more on the Compare page."] if more > 0 else []
    return "".join(parts) + f'<small style="{QUIET}">{escape(" ".join(notes))}</small>'


def _group(name: str, claim: Claim, shown: Shown, *, bar: bool) -> str:
    """Return one experiment. bar: all estimates are of one kind, so that their bars compare."""
    color = STATUSES[shown.kind]
    words = (
        f"<span>{escape(name.removeprefix('perturbation_').replace('=', ' '))}</span> "
        f'<span style="color:color-mix(in srgb,{color} 62%,currentColor)">{shown.icon} {escape(shown.word)}</span> '
        f"<strong>{escape(estimated(claim))}</strong>"
    )
    style = "display:flex;flex-wrap:wrap;gap:0 .6rem;font-size:.875rem"
    return f'<div style="{style}">{words}</div>{slim_bar(claim, color) if bar and has_interval(claim) else ""}'
