"""Cards that several pages show: the verdict, the three claims, the gravest finding, and the table of all runs."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from prismatic.contract.schema import SOURCES
from ui.layout.shell import STATUS_COLORS, finding_card, status_badge
from ui.widgets.markdown import escape_markdown, markdown_sentence
from ui.widgets.tables import show_table
from validation.analysis.run import Run
from validation.charts.interval_bar import interval_bar
from validation.judgement.judge import Judgement
from validation.text import pluralize, spaced
from validation.verdict.claims import CLAIMS, Claim, combine_statuses
from validation.verdict.wording import MEANING, QUESTIONS, estimated

PREMISE_COLORS = {"dormant": "green", "not_dormant": "orange", "undecided": "gray"}


def headline(judgement: Judgement, run: Run) -> None:
    """Show the run's overall status, the premise, and the claim that decides it."""
    claims = judgement.verdict.controlled.whole(run.id)
    status = combine_statuses([claim.status for claim in claims.values()])
    shown = next((claim for claim in claims.values() if claim.status == status), None)
    with st.container(border=True):
        st.subheader(f"Verdict: :{STATUS_COLORS[status]}[{status}]", anchor=False)
        if premise := judgement.verdict.premise_of.get(run.id):
            badge = f":{PREMISE_COLORS[premise.status]}-badge[premise: {spaced(premise.status)}]"
            st.markdown(f"{badge} {markdown_sentence(premise.because)}")
        st.write(MEANING[status] + (f" {shown.name.capitalize()}: {escape_markdown(shown.because)}." if shown else ""))
        written = combine_statuses([claim.status for claim in judgement.verdict.as_written.whole(run.id).values()])
        st.caption(f"As written, by the documented rules alone: **{written}**.")


def claim_cards(judgement: Judgement, run: Run) -> None:
    """Show the three claims side by side: controlled first, as written below."""
    controlled, written = judgement.verdict.controlled.whole(run.id), judgement.verdict.as_written.whole(run.id)
    for column, name in zip(st.columns(len(CLAIMS)), CLAIMS, strict=True):
        with column, st.container(border=True, height="stretch"):
            claim_card(controlled[name], written[name])


def claim_card(claim: Claim, written: Claim) -> None:
    """Show a claim: question, status, estimate with interval and threshold, reason, and the reading as written."""
    st.markdown(f"**{claim.name.capitalize()}**")
    st.caption(QUESTIONS[claim.name])
    status_badge(claim.status)
    if claim.estimate is not None:
        st.markdown(f"### {number(claim.estimate, claim)}")
        st.caption(
            f"95 % interval over this run's steps: {number(claim.low, claim)} to {number(claim.high, claim)}. "
            f"Threshold: {number(claim.threshold, claim)}."
        )
        if picture := interval_bar(claim):
            st.html(picture)
    st.write(markdown_sentence(claim.because))
    st.caption(f"As written: **{written.status}**. {markdown_sentence(written.because)}")


def number(value: float | None, claim: Claim) -> str:
    """Return a value in the unit of a claim, or "unbounded" for a missing bound."""
    return "unbounded" if value is None else estimated(replace(claim, estimate=value), bare=True)


def findings_summary(judgement: Judgement, run: Run) -> None:
    """Show the gravest finding, and a link to the others."""
    found = judgement.findings_of(run.id)
    if not found:
        st.caption("Every check passed for this run.")
        return
    finding_card(found[0])
    if len(found) > 1:
        more = pluralize(len(found) - 1, "more finding")
        st.page_link("pages/5_Diagnostics.py", label=f"See {more} on the Diagnostics page")


def runs_table(judgement: Judgement) -> None:
    """Show the claims over all runs, and a table with one row per run."""
    if len(judgement.runs) > 1:
        st.subheader("All runs", anchor=False)
        for claim in judgement.verdict.controlled.of(None):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{claim.name.capitalize()}**")
                status_badge(claim.status)
                st.caption(markdown_sentence(claim.because))
    rows = []
    for run, file in zip(judgement.runs, judgement.files, strict=True):
        claims = judgement.verdict.controlled.whole(run.id)
        rows.append(
            {
                "run": run.id,
                "file": run.name,
                "verdict": combine_statuses([claim.status for claim in claims.values()]),
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
    """Return the chosen gradients: "merged", or "isolated" for a run that was probed."""
    if run.isolated is None:
        return "merged"
    chosen: str = st.segmented_control(
        "Gradients",
        list(SOURCES),
        default="merged",
        required=True,
        key="gradients",
        bind="query-params",
        help="Merged: the gradients that the optimizer uses. Isolated: each expert alone, without routing.",
    )
    return chosen
