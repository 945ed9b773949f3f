"""The Verdict page: advice, evidence of each claim, thresholds to edit, tables of claims and facts, downloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

import pandas as pd
import streamlit as st

from prismatic.contract.thresholds import Thresholds, read_registration
from prismatic.errors import ConfigError
from ui.layout.cards import number
from ui.layout.shell import Color, session_thresholds, status_badge
from ui.widgets.charts import Described, describe, draw
from ui.widgets.markdown import escape_markdown, markdown_sentence
from ui.widgets.memo import memoized
from ui.widgets.tables import fact_text, height, show_table
from validation.analysis.run import Run
from validation.charts.claim_evidence import evidence_chart
from validation.frames.claim_evidence import claim_evidence
from validation.judgement.judge import Judgement
from validation.report.html_report import as_html, as_markdown
from validation.report.json_report import as_json
from validation.text import spaced
from validation.verdict.claims import CLAIMS, Claim
from validation.verdict.registration import AS_REGISTERED, CHANGED

MAX_CLAIM_ROWS = 24  # visible in the table of claims
REGISTRATION_COLORS: dict[str, Color] = {AS_REGISTERED: "green", CHANGED: "orange"}


def advice(judgement: Judgement, run: Run) -> None:
    """Show the next steps, each with its options for `prismatic train`."""
    steps = [step for step in judgement.advice if step.run in (run.id, None)]
    if not steps:
        return
    st.subheader("What to do next", anchor=False)
    for step in steps:
        st.markdown(f"- {markdown_sentence(step.text)}")
        if step.options:
            st.code(step.line, language=None, wrap_lines=True)
    if any(step.options for step in steps):
        st.caption("Add the options to the command that trained this run: `prismatic train ... --set ...`")


def evidence(judgement: Judgement, run: Run) -> None:
    """Show each claim of one expert: the decisions up to its status, and its series, interval and margin."""
    perturbed = [expert.index for expert in run.of_role("perturbed")]
    if not perturbed:
        return
    st.subheader("Evidence", anchor=False)
    expert = perturbed[0]
    if len(perturbed) > 1:
        expert = st.segmented_control(
            "Expert", perturbed, default=perturbed[0], required=True, key="evidence-expert", bind="query-params"
        )
    claims = {c.name: c for c in judgement.verdict.controlled.claims if c.run == run.id and c.expert == expert}
    shown = memoized(judgement, ("evidence", run.id, expert), lambda: evidence_charts(judgement, run, expert))
    for name in CLAIMS:
        if name not in claims:
            continue
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"**{name.capitalize()}**")
                status_badge(claims[name].status)
            st.caption(_decision_path(claims[name]))
            if name in shown:
                draw(
                    shown[name],
                    key=f"evidence-{name}",
                    alt=f"Series, batch means, interval and threshold of {name} for expert {expert}",
                )
    st.caption(
        "Dots are means over 20 equal batches of logged steps. The band is the 95 % interval of their mean, widened "
        "for correlated steps and for the spread between draws of experts. Faint dots (warm-up and unusable rows) do "
        "not count."
    )


def evidence_charts(judgement: Judgement, run: Run, expert: int) -> dict[str, Described]:
    """Return the chart of the evidence by claim."""
    found = claim_evidence(run, expert, judgement.runs, judgement.verdict.thresholds)
    return {name: describe(evidence_chart(evidence)) for name, evidence in found.items()}


def _decision_path(claim: Claim) -> str:
    """Return the decisions of a claim in order, as one line."""
    return " → ".join(escape_markdown(step) for step in claim.path) if claim.path else markdown_sentence(claim.because)


def claims_table(judgement: Judgement, run: Run) -> None:
    """Show all claims of both readings, by expert and for the run."""
    readings = {"controlled": judgement.verdict.controlled, "as written": judgement.verdict.as_written}
    rows = [
        {"reading": title, **_claim_row(claim)}
        for title, reading in readings.items()
        for claim in reading.claims
        if claim.run == run.id
    ]
    show_table(
        rows,
        most=MAX_CLAIM_ROWS,
        placeholder="",
        key="claims",
        column_config={
            "expert": st.column_config.TextColumn(help="All: the run, decided from all its perturbed experts"),
            "estimate": st.column_config.TextColumn(width=120, help="Estimate in the unit of the claim"),
            "low": st.column_config.TextColumn(help="Lower bound of the 95 % interval of the estimate"),
            "high": st.column_config.TextColumn(help="Upper bound of the 95 % interval of the estimate"),
            "points": st.column_config.NumberColumn(help="Usable logged steps after the warm-up"),
            "independent batches": st.column_config.NumberColumn(
                format="%.1f",
                help="Number of independent batches with as much information as the 20 batches of correlated steps",
            ),
            "because": st.column_config.TextColumn(width="large"),
        },
        alt="All claims of both readings with status, estimate, interval and reason",
    )


def _claim_row(claim: Claim) -> dict[str, object]:
    known = claim.estimate is not None
    return {
        "claim": claim.name,
        "expert": "all" if claim.expert is None else str(claim.expert),
        "status": claim.status,
        "estimate": number(claim.estimate, claim) if known else "",
        "low": number(claim.low, claim) if known and claim.low is not None else "",
        "high": number(claim.high, claim) if known and claim.high is not None else "",
        "points": claim.points,
        "independent batches": claim.effective,
        "because": claim.because,
    }


def registration(judgement: Judgement, run: Run) -> None:
    """Show if the thresholds are those that the run registered before its first step."""
    found = next(one for one in judgement.registrations if one.run == run.id)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Thresholds**")
        st.badge(
            spaced(found.status),
            color=REGISTRATION_COLORS.get(found.status, "gray"),
        )
    st.caption(markdown_sentence(found.because))


def edit_thresholds(judgement: Judgement, run: Run) -> None:
    """Show a table of thresholds in use, registered and default; an edited value judges the runs again."""
    found = read_registration(run.facts)
    used = asdict(judgement.verdict.thresholds)
    table = pd.DataFrame(
        {
            "threshold": list(used),
            "used": list(used.values()),
            "registered": [found.values.get(name) if found else None for name in used],
            "default": list(asdict(Thresholds()).values()),
            "meaning": list(Thresholds.meanings().values()),
        }
    )
    small_number = partial(st.column_config.NumberColumn, format="%g", width="small")
    edited: pd.DataFrame = st.data_editor(
        table,
        hide_index=True,
        height=height(len(table), len(table)),
        placeholder="",
        disabled=["threshold", "registered", "default", "meaning"],
        key=f"thresholds-{hash(tuple(used.values()))}",
        column_config={
            "used": small_number(required=True, help="Click a number to change it and judge again"),
            "registered": small_number(help="Value that the run registered before its first step"),
            "default": small_number(help="Value for a run that registered none"),
            "meaning": st.column_config.TextColumn(width="large"),
        },
        alt="Thresholds in use, as registered and by default, with their meanings",
    )
    wanted = dict(zip(edited["threshold"], edited["used"], strict=True))
    changes = {name: float(value) for name, value in wanted.items() if value != used[name]}
    if changes:
        try:
            judgement.verdict.thresholds.changed(changes)
        except ConfigError as error:
            st.error("This value is not allowed.")
            st.text(str(error))
        else:
            session_thresholds().update(changes)
            st.rerun()
    if session_thresholds() and st.button("Restore the registered thresholds"):
        session_thresholds().clear()
        st.rerun()


def details(judgement: Judgement, run: Run) -> None:
    """Show thresholds, all claims and facts in closed parts, whose content is made only when they are opened."""
    st.subheader("Details", anchor=False)
    registration(judgement, run)
    _on_request("thresholds", "See or change the thresholds", lambda: edit_thresholds(judgement, run))
    _on_request("claims", "All claims by expert", lambda: claims_table(judgement, run))
    _on_request("facts", "How this run was trained", lambda: run_facts(run))


def _on_request(name: str, label: str, show: Callable[[], None]) -> None:
    # Always closed at first: with another default, Streamlit sees another widget and forgets that it was opened.
    with st.expander(label, key=f"see-{name}", bind="query-params") as part:
        if part.open:
            show()


def run_facts(run: Run) -> None:
    """Show the facts of the run: options, seed, machine."""
    if not run.facts:
        st.caption("The file has no run table, so its options, seed and thresholds are unknown.")
        return
    rows = [{"fact": key, "value": fact_text(key, value)} for key, value in run.facts.items()]
    show_table(rows, key="facts", alt="All facts in the file about its run")


def downloads(judgement: Judgement) -> None:
    """Show buttons to download the verdict; each file is made when its button is pressed."""
    kinds = {
        "Report (HTML)": ("html", "text/html", lambda: as_html(judgement, now=datetime.now(UTC))),
        "Report (Markdown)": ("md", "text/markdown", lambda: as_markdown(judgement, now=datetime.now(UTC))),
        "Download the verdict (JSON)": (
            "json",
            "application/json",
            lambda: json.dumps(as_json(judgement), indent=2, allow_nan=False),
        ),
    }
    with st.container(horizontal=True):
        for label, (ending, mime, make) in kinds.items():
            # Without a rerun of the page, which would lose a click that follows at once.
            st.download_button(label, make, f"verdict.{ending}", mime, on_click="ignore")
    st.caption("The HTML report is one file that opens offline, with evidence, thresholds, options and hashes.")
