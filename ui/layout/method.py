"""The panel "How is this decided?" beside a status: the rule that was applied, with the numbers of these runs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import streamlit as st

from ui.settings import ROOT
from ui.widgets.markdown import escape_markdown, markdown_sentence, markdown_table
from validation.judgement.judge import Judgement
from validation.method.decision import UsedThreshold, numbers_of, thresholds_in_force
from validation.method.table import BEYOND_THE_TABLE, LINES, Line, deciding_line, lines_before
from validation.text import sentence
from validation.verdict.claims import SUPPORTED, Claim
from validation.verdict.groups import POSITIVE, deciding_groups

PAGE = ROOT / "docs" / "verdict.md"
LABEL = "How is this decided?"


def method_panel(judgement: Judgement, claim: Claim, *, key: str = "") -> None:
    """Show a button that opens the rule behind a claim's status. key: of the panel, if a page has two for one claim.

    Its content is made only when it is open, and opening it reruns nothing else.
    """
    runs = _runs_of(judgement, claim)
    used = thresholds_in_force(claim, [run for run in judgement.runs if run.id in runs], judgement.verdict.thresholds)
    numbers = numbers_of(claim, judgement.verdict.thresholds)
    planted = {group.role for group in judgement.verdict.groups if runs & {*group.runs}} == {POSITIVE}

    @st.fragment
    def panel() -> None:
        name = f"method-{claim.name}{f'-{key}' if key else ''}"
        with st.popover(LABEL, icon=":material/rule:", key=name, on_change="rerun") as part:
            if part.open:
                _show(claim, numbers, used, of_one=len(runs) == 1, planted=planted)
                if PAGE.exists():
                    st.button(
                        "Read the whole method",
                        icon=":material/menu_book:",
                        key=f"{name}-all",
                        on_click=_ask,
                        args=(name,),
                    )
        if st.session_state.pop(f"{name}-asked", False):
            _whole_method()

    panel()


def _ask(name: str) -> None:
    """Close the panel, which would cover the page of the method, and ask for that page."""
    st.session_state[name] = False
    st.session_state[f"{name}-asked"] = True


def _runs_of(judgement: Judgement, claim: Claim) -> set[str]:
    """Return the ids of the runs that a claim is about."""
    if claim.run is not None:
        return {claim.run}
    groups = judgement.verdict.groups
    own = next((group for group in groups if group.claim(claim.name) is claim), None)
    return {run for group in ([own] if own else deciding_groups(groups, claim.name)) for run in group.runs}


def _show(
    claim: Claim, numbers: Sequence[tuple[str, str]], used: Sequence[UsedThreshold], *, of_one: bool, planted: bool
) -> None:
    """Show the rule and its numbers. of_one: of one run. planted: its effect was put in by hand."""
    line = deciding_line(claim)
    title = f"{claim.name.capitalize()} is {claim.status}"
    if planted and claim.status == SUPPORTED:
        title += ": the planted effect is found"
    st.markdown(f"**{title}**")
    if line is None:
        st.markdown(sentence(BEYOND_THE_TABLE[claim.reason]))
    else:
        st.markdown("The first line of the decision table that applies decides. It is this one:")
        with st.container(border=True):
            st.markdown(f"{_numbered(line)} → **{line.status}**")
    st.markdown(f"**In {'this run' if of_one else 'these runs'}:** {markdown_sentence(claim.because)}")
    if numbers:
        st.markdown(markdown_table([("Number", "Value"), *((name, escape_markdown(value)) for name, value in numbers)]))
    if before := lines_before(claim):
        st.caption("\n".join(["Asked before, and did not apply:\n", *(f"- {_numbered(each)}" for each in before)]))
    if used:
        rows = [(f"`{one.name}`", f"{one.value:g}", one.origin) for one in used]
        st.markdown("**Thresholds in force**")
        st.markdown(markdown_table([("Threshold", "Value", "From"), *rows]))


def _numbered(line: Line) -> str:
    """Return the number and the condition of a line, without its links, which lead to the page of the docs."""
    condition = _without_links(line.condition)
    return f"line {LINES.index(line) + 1}: {condition}" if line in LINES else condition


def _without_links(text: str) -> str:
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)


@st.dialog("How the verdict decides", width="large")
def _whole_method() -> None:
    """Show the page of the docs."""
    text = PAGE.read_text(encoding="utf-8").partition("\n")[2]
    st.markdown(_without_links(text), anchors=False)
