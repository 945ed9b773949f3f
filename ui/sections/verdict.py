"""Why the verdict is what it is, as pieces of the page: advice, evidence, the way to the decision, thresholds."""

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
from ui.widgets.tables import height, show_table
from validation.analysis.run import Run
from validation.charts.claim_evidence import evidence_chart
from validation.frames.claim_evidence import claim_evidence
from validation.judgement.judge import Judgement
from validation.report.html_report import as_html, as_markdown
from validation.report.json_report import as_json
from validation.verdict.claims import CLAIMS, Claim
from validation.verdict.registration import AS_REGISTERED, CHANGED

MAX_CLAIM_ROWS = 24  # of the table of claims, seen at once
REGISTRATION_COLORS: dict[str, Color] = {AS_REGISTERED: "green", CHANGED: "orange"}


def advice(judgement: Judgement, run: Run) -> None:
    """What to do next, each with the options that do it."""
    own = [one for one in judgement.advice if one.run in (run.id, None)]
    if not own:
        return
    st.subheader("What to do next", anchor=False)
    for one in own:
        st.markdown(f"- {markdown_sentence(one.text)}")
        if one.options:
            st.code(one.line, language=None, wrap_lines=True)
    if any(one.options for one in own):
        st.caption(
            escape_markdown("Options go after the command that trained this run: python -m prismatic train … --set …")
        )


def evidence(judgement: Judgement, run: Run) -> None:
    """Each claim's series, interval and margin, and the decisions on the way to its status, of one expert."""
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
        "Dots are the means of 20 equal batches, the band is the 95 % interval of their mean: it is as wide as the "
        "dependence between neighbouring steps and the spread between draws of experts make it. Faint dots do not "
        "count: they are the warm-up, or rows that are not usable."
    )


def evidence_charts(judgement: Judgement, run: Run, expert: int) -> dict[str, Described]:
    """By claim, the chart of what it was decided from."""
    found = claim_evidence(run, expert, judgement.runs, judgement.verdict.thresholds)
    return {name: describe(evidence_chart(evidence)) for name, evidence in found.items()}


def _decision_path(claim: Claim) -> str:
    """The decisions in their order, as one line."""
    return " → ".join(escape_markdown(step) for step in claim.path) if claim.path else markdown_sentence(claim.because)


def claims_table(judgement: Judgement, run: Run) -> None:
    """Every claim of both readings, per expert and for the run."""
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
            "expert": st.column_config.TextColumn(help="All: the run, decided from all of its perturbed experts"),
            "estimate": st.column_config.TextColumn(width=120, help="What the data says, in the unit of the claim"),
            "low": st.column_config.TextColumn(help="Lower bound of the 95 % interval of the estimate"),
            "high": st.column_config.TextColumn(help="Upper bound of the 95 % interval of the estimate"),
            "points": st.column_config.NumberColumn(help="Logged steps after the warm-up that count"),
            "independent batches": st.column_config.NumberColumn(
                format="%.1f", help="What the 20 batches of steps are worth, since neighbouring ones are alike"
            ),
            "because": st.column_config.TextColumn(width="large"),
        },
        alt="Every claim of both readings with its status, estimate, interval and reason",
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
    """Whether the thresholds are those that the run registered before its first step."""
    found = next(one for one in judgement.registrations if one.run == run.id)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("**Thresholds**")
        st.badge(
            found.status.replace("_", " "),
            color=REGISTRATION_COLORS.get(found.status, "gray"),
        )
    st.caption(markdown_sentence(found.because))


def edit_thresholds(judgement: Judgement, run: Run) -> None:
    """Every threshold, with what the run registered beside what is used; another value judges anew."""
    found = read_registration(run.facts)
    used = asdict(judgement.verdict.thresholds)
    table = pd.DataFrame(
        {
            "threshold": list(used),
            "used": list(used.values()),
            "registered": [found.values.get(name) if found else None for name in used],
            "default": list(asdict(Thresholds()).values()),
            "what it is": list(Thresholds.meanings().values()),
        }
    )
    small_number = partial(st.column_config.NumberColumn, format="%g", width="small")
    edited: pd.DataFrame = st.data_editor(
        table,
        hide_index=True,
        height=height(len(table), len(table)),
        placeholder="",
        disabled=["threshold", "registered", "default", "what it is"],
        key=f"thresholds-{hash(tuple(used.values()))}",
        column_config={
            "used": small_number(required=True, help="Click a number to judge by another"),
            "registered": small_number(help="What the run wrote before its first step"),
            "default": small_number(help="What is used where a run registered nothing"),
            "what it is": st.column_config.TextColumn(width="large"),
        },
        alt="Every threshold: what is used, what the run registered, the default, and what it is",
    )
    wanted = dict(zip(edited["threshold"], edited["used"], strict=True))
    changes = {name: float(value) for name, value in wanted.items() if value != used[name]}
    if changes:
        try:
            judgement.verdict.thresholds.changed(changes)
        except ConfigError as error:
            st.error("This threshold cannot be used.")
            st.text(str(error))
        else:
            session_thresholds().update(changes)
            st.rerun()
    if session_thresholds() and st.button("Back to what was registered"):
        session_thresholds().clear()
        st.rerun()


def details(judgement: Judgement, run: Run) -> None:
    """What few want to see at each visit. A closed part is not made: the browser would work on it all the same."""
    st.subheader("Behind it", anchor=False)
    registration(judgement, run)
    _on_request("thresholds", "See or change the thresholds", lambda: edit_thresholds(judgement, run))
    _on_request("claims", "Every claim, per expert", lambda: claims_table(judgement, run))
    _on_request("facts", "How this run was made", lambda: run_facts(run))


def _on_request(name: str, label: str, show: Callable[[], None]) -> None:
    # Always closed at first: another default would be another widget to Streamlit, which forgets that it was opened.
    with st.expander(label, key=f"see-{name}", bind="query-params") as part:
        if part.open:
            show()


def run_facts(run: Run) -> None:
    """What the run says about itself: options, seed, machine."""
    if not run.facts:
        st.caption("The file has no run table, so its options, seed and thresholds are unknown.")
        return
    rows = [{"fact": key, "value": json.dumps(value)} for key, value in run.facts.items()]
    show_table(rows, key="facts", alt="Everything that the file says about its run")


def downloads(judgement: Judgement) -> None:
    """The verdict to take along; each is made when its button is pressed."""
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
            # Running the page again for a download would lose a click that follows at once.
            st.download_button(label, make, f"verdict.{ending}", mime, on_click="ignore")
    st.caption("The HTML report is one file that opens without a network: evidence, thresholds, options, hashes.")
