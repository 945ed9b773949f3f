"""Pieces of a page that more than one page shows: a judgement in, streamlit elements out."""

from __future__ import annotations

import streamlit as st

from prismatic.contract.schema import SOURCES
from ui.layout.shell import STATUS_COLORS, finding_card, status_badge
from ui.widgets.markdown import escape_markdown, markdown_sentence
from ui.widgets.tables import show_table
from validation.analysis.run import Run
from validation.charts.interval_bar import bar
from validation.judgement.judge import Judgement
from validation.verdict.claims import CLAIMS, Claim, combine
from validation.verdict.wording import MEANING, QUESTIONS, digits

PREMISE = {"dormant": "green", "not_dormant": "orange", "undecided": "gray"}


def headline(judgement: Judgement, run: Run) -> None:
    """The run's overall status, what it means, and the premise, before anything else is said."""
    claims = judgement.verdict.controlled.whole(run.id)
    status = combine([claim.status for claim in claims.values()])
    shown = next((claim for claim in claims.values() if claim.status == status), None)
    with st.container(border=True):
        st.subheader(f"Verdict: :{STATUS_COLORS[status]}[{status}]", anchor=False)
        if premise := judgement.verdict.premise_of.get(run.id):
            badge = f":{PREMISE[premise.status]}-badge[premise: {premise.status.replace('_', ' ')}]"
            st.markdown(f"{badge} {markdown_sentence(premise.because)}")
        st.write(MEANING[status] + (f" {shown.name.capitalize()}: {escape_markdown(shown.because)}." if shown else ""))
        written = combine([claim.status for claim in judgement.verdict.as_written.whole(run.id).values()])
        st.caption(f"As written, to the letter of the documented rules: **{written}**.")


def claim_cards(judgement: Judgement, run: Run) -> None:
    """The three claims side by side: controlled first, as written beneath it."""
    controlled, written = judgement.verdict.controlled.whole(run.id), judgement.verdict.as_written.whole(run.id)
    for column, name in zip(st.columns(len(CLAIMS)), CLAIMS, strict=True):
        with column, st.container(border=True, height="stretch"):
            claim_card(controlled[name], written[name])


def claim_card(claim: Claim, written: Claim) -> None:
    """One claim: question, status, estimate with interval and threshold, the reason, and the documented reading."""
    st.markdown(f"**{claim.name.capitalize()}**")
    st.caption(QUESTIONS[claim.name])
    status_badge(claim.status)
    if claim.estimate is not None:
        st.markdown(f"### {number(claim.estimate, claim)}")
        st.caption(
            f"95 % interval over this run's steps {number(claim.low, claim)} to {number(claim.high, claim)}, "
            f"threshold {number(claim.threshold, claim)}"
        )
        if picture := bar(claim):
            st.html(picture)
    st.write(markdown_sentence(claim.because))
    st.caption(f"As written: **{written.status}**. {markdown_sentence(written.because)}")


def number(value: float | None, claim: Claim) -> str:
    """A claim's number with its unit."""
    if value is None:
        return "unbounded"
    shown = digits(value, claim)
    if claim.name == "sustainment":
        return f"{shown} kept"
    return f"{shown}×" if claim.unit == "ratio" else f"{shown} ({claim.unit})"


def findings_summary(judgement: Judgement, run: Run) -> None:
    """The gravest finding, and where the others are."""
    own = judgement.findings_of(run.id)
    if not own:
        st.caption("Diagnostics found nothing wrong with this run.")
        return
    finding_card(own[0])
    if len(own) > 1:
        st.page_link("pages/5_Diagnostics.py", label=f"{len(own) - 1} more on the Diagnostics page")


def runs_table(judgement: Judgement) -> None:
    """Every run that was read, in one table, with the verdict over all of them."""
    if len(judgement.runs) > 1:
        st.subheader("All runs", anchor=False)
        for claim in judgement.verdict.controlled.of(None):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{claim.name.capitalize()}**")
                status_badge(claim.status)
                st.caption(escape_markdown(claim.because))
    rows = []
    for run, file in zip(judgement.runs, judgement.files, strict=True):
        claims = judgement.verdict.controlled.whole(run.id)
        rows.append(
            {
                "run": run.id,
                "file": run.name,
                "verdict": combine([claim.status for claim in claims.values()]),
                **{name: claim.status for name, claim in claims.items()},
                "logged steps": len(run.steps),
                "experts": len(run.experts),
                "perturbation_scale": run.number("config.perturbation_scale"),
                "merge": str(run.config.get("merge", ""))[:20],
                "seed": run.seed,
                "positive control": run.is_positive_control,
                "sha256": file.sha256[:12],
            }
        )
    show_table(rows, key="runs-table")


def choose_gradients(run: Run) -> str:
    """Which gradients of a run to look at: "merged", or "isolated" where it was probed and somebody asks for it."""
    if run.isolated is None:
        return "merged"
    chosen: str = st.segmented_control(
        "Gradients",
        list(SOURCES),
        default="merged",
        required=True,
        key="gradients",
        bind="query-params",
        help="Merged: what the optimizer uses. Isolated: each expert alone on the same batch, free of routing.",
    )
    return chosen
