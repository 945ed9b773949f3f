"""The Verdict page: advice, evidence of each claim, thresholds to edit, tables of claims and facts, downloads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial

import pandas as pd
import streamlit as st

from prismatic.contract.thresholds import Thresholds, read_registration
from prismatic.errors import ConfigError
from ui.layout.cards import options_button
from ui.layout.method import method_panel
from ui.layout.shell import Color, session_thresholds, shown_badge
from ui.widgets.charts import Described, describe, draw
from ui.widgets.guard import guarded
from ui.widgets.markdown import escape_markdown, markdown_sentence, markdown_table
from ui.widgets.memo import memoized
from ui.widgets.tables import fact_text, height, show_table
from validation.analysis.bins import BINS
from validation.analysis.cohort import MeasuredRun
from validation.analysis.run import Run
from validation.charts.claim_evidence import evidence_chart
from validation.frames.claim_evidence import claim_evidence
from validation.judgement.glance import AGAIN, step_of
from validation.judgement.judge import Judgement, without_failing_runs
from validation.method.terms import explain
from validation.report.html_report import as_html, as_markdown
from validation.report.json_report import as_json
from validation.text import sentence, spaced
from validation.verdict.claims import DISTINCT, Claim
from validation.verdict.groups import POSITIVE
from validation.verdict.registration import AS_REGISTERED, CHANGED
from validation.verdict.words.statuses import shown_claim
from validation.verdict.words.wording import QUANTITIES, estimated, needed, parts_of, threshold

SEEDS, ALONE = "All seeds", "This run alone"
CHARTS_PER_ROW = 2  # of the effects of a claim
MAX_CLAIM_ROWS = 24  # visible in the table of claims
REGISTRATION_COLORS: dict[str, Color] = {AS_REGISTERED: "green", CHANGED: "orange"}


def choose_runs(judgement: Judgement, run: Run) -> tuple[list[MeasuredRun], Sequence[Claim]]:
    """Return the runs that are shown together and their claims: the seeds of the run's group, or the run alone."""
    group = judgement.group_of(run.id)
    if len(judgement.verdict.groups) > 1:
        st.text(f"Group of the picked run: {group.name}")
    if len(group.runs) > 1:
        chosen = st.segmented_control(
            "Judged", [SEEDS, ALONE], default=SEEDS, required=True, key="judged", bind="query-params"
        )
        if chosen == SEEDS:
            return judgement.members_of(group), judgement.verdict.shown(group)
    own = [each for each in judgement.measured if each.run is run]
    return own, [*judgement.verdict.judged(run.id).values()]


@guarded
def advice(judgement: Judgement, run: Run) -> None:
    """Show the next steps, each with its command."""
    runs = (None, *judgement.group_of(run.id).runs)
    steps = [step_of(step, judgement, portable=True) for step in judgement.advice if step.run in runs]
    if not steps:
        return
    st.subheader("What to do next", anchor=False)
    for step in steps:
        st.markdown(f"- {escape_markdown(step.text)}")
        if step.command:
            st.code(step.command, language=None, wrap_lines=True)
        if step.cost:
            st.caption(escape_markdown(step.cost))


@guarded
def evidence(judgement: Judgement, runs: Sequence[MeasuredRun], claims: Sequence[Claim]) -> None:
    """Show each claim with its reason, and the course of each of its effects in every seed or expert."""
    named = tuple(each.run.id for each in runs)
    planted = all(judgement.group_of(name).role == POSITIVE for name in named)
    shown = memoized(judgement, ("evidence", named), lambda: evidence_charts(judgement, runs, claims))
    told: set[str] = set()
    for claim in claims:
        because = AGAIN if claim.because in told else claim.because
        told.add(claim.because)
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.subheader(claim.name.capitalize(), anchor=False, width="content", help=explain(claim.name))
                shown_badge(shown_claim(claim, planted=planted))
                method_panel(judgement, claim)
            st.markdown(markdown_sentence(because))
            _evidence_of(claim, shown[claim.name])
    if any(shown.values()):
        kind = "expert" if runs[0].run.peers else "perturbed expert"
        unit = "seed" if len(runs) > 1 else kind
        st.caption(
            f"Training after the warm-up is cut into six bins of equal time. Each dot is the mean of one {unit} in a "
            f"bin; the blue line is their mean, the band its interval over the {_judged_part(claims)}."
        )


def _judged_part(claims: Sequence[Claim]) -> str:
    """Return the part of the training that the claims are about."""
    names = {claim.name for claim in claims}
    bins = min((claim.bins for claim in claims if claim.bins is not None), default=BINS)
    if bins < BINS:
        return f"{bins} bins that are judged so far"
    return "last third" if names == {DISTINCT} else "last third or the whole run" if DISTINCT in names else "whole run"


def _evidence_of(claim: Claim, charts: Sequence[Described]) -> None:
    """Show the charts of a claim's effects in pairs, a single one over the whole width; then a table of the numbers."""
    columns = min(CHARTS_PER_ROW, max(1, len(charts)))
    for place, (part, chart) in enumerate(zip(claim.components, charts, strict=False)):
        if place % columns == 0:  # a new row for each pair keeps their order when a phone stacks them
            row = st.columns(columns, gap="medium")
        with row[place % columns]:
            draw(
                chart,
                key=f"evidence-{claim.name}-{part.name}",
                alt=f"{sentence(QUANTITIES[part.name])[:-1]} by bin, with interval and threshold",
            )
    _effects_table(claim)


def evidence_charts(
    judgement: Judgement, runs: Sequence[MeasuredRun], claims: Sequence[Claim]
) -> dict[str, list[Described]]:
    """Return the charts of the evidence by claim, one for each effect."""
    found = claim_evidence(runs, claims, judgement.cohort, judgement.verdict.thresholds)
    return {claim.name: [describe(evidence_chart(e)) for e in found.get(claim.name, [])] for claim in claims}


def _effects_table(claim: Claim) -> None:
    """Show the effects of a claim that has several, with their intervals and thresholds."""
    parts = [replace(part, effect=part.name) for part in parts_of(claim)]
    rows = [[spaced(part.name), estimated(part), needed(part)] for part in parts]
    if rows:
        st.markdown(markdown_table([("Effect", "Estimate", "Needed"), *(map(escape_markdown, row) for row in rows)]))


def claims_table(judgement: Judgement, run: Run) -> None:
    """Show all claims of both readings: over seeds, about the run, and as written by expert."""
    group = judgement.group_of(run.id)
    readings = {
        f"controlled, {len(group.runs)} seeds": judgement.verdict.shown(group) if len(group.runs) > 1 else (),
        "controlled": [*judgement.verdict.judged(run.id).values()],
        "as written": () if run.peers else judgement.verdict.as_written.of(run.id),
    }
    show_table(
        [
            _claim_row(title, part)
            for title, claims in readings.items()
            for claim in claims
            for part in [claim, *_components(claim)]
        ],
        most=MAX_CLAIM_ROWS,
        placeholder="",
        key="claims",
        column_config={
            "expert": st.column_config.TextColumn(help="The expert of a claim as written; all: the whole run"),
            "units": st.column_config.NumberColumn(help="Seeds, or in one run the experts of the rarer role"),
            "threshold": st.column_config.TextColumn(width=95),
            "because": st.column_config.TextColumn(width="large"),
        },
        alt="All claims of both readings with status, estimate, interval and reason",
    )


def _components(claim: Claim) -> list[Claim]:
    """Return the effects of a claim that has several. The sentence of the claim is about one of them only."""
    return [replace(part, because=f"an effect of {claim.name}") for part in parts_of(claim)]


def _claim_row(reading: str, claim: Claim) -> dict[str, object]:
    """Return a row about a claim, or about one of its effects."""
    return {
        "reading": reading,
        "claim": spaced(claim.name),
        "expert": "all" if claim.expert is None else str(claim.expert),
        "status": claim.status,
        "estimate": estimated(claim),
        "threshold": threshold(claim),
        "units": claim.units,
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


@guarded
def details(judgement: Judgement, run: Run) -> None:
    """Show thresholds, all claims and facts in closed parts, whose content is made only when they are opened."""
    st.subheader("Details", anchor=False)
    registration(judgement, run)
    _on_request("thresholds", "See or change the thresholds", lambda: edit_thresholds(judgement, run))
    _on_request("claims", "All claims", lambda: claims_table(judgement, run))
    _on_request("facts", "How this run was trained", lambda: run_facts(run))


def _on_request(name: str, label: str, show: Callable[[], None]) -> None:
    # Always closed at first: with another default, Streamlit sees another widget and forgets that it was opened.
    with st.expander(label, key=f"see-{name}", bind="query-params") as part:
        if part.open:
            show()


@guarded
def run_facts(run: Run) -> None:
    """Show the facts of the run: options, seed, machine."""
    if not run.facts:
        st.caption("The file has no run table, so its options, seed and thresholds are unknown.")
        return
    rows = [{"fact": key, "value": fact_text(key, value)} for key, value in run.facts.items()]
    show_table(rows, key="facts", alt="All facts in the file about its run")
    if run.by_trainer:
        options_button(run, key="options")


@guarded
def downloads(judgement: Judgement) -> None:
    """Show buttons to download the verdict; each file is made when its button is pressed."""
    kinds: dict[str, tuple[str, str, Callable[[Judgement], str]]] = {
        "Report (HTML)": ("html", "text/html", partial(as_html, now=datetime.now(UTC))),
        "Report (Markdown)": ("md", "text/markdown", partial(as_markdown, now=datetime.now(UTC))),
        "Download the verdict (JSON)": (
            "json",
            "application/json",
            lambda shown: json.dumps(as_json(shown, portable=True), indent=2, allow_nan=False),
        ),
    }
    with st.container(horizontal=True):
        for label, (ending, mime, make) in kinds.items():
            # Without a rerun of the page, which would lose a click that follows at once.
            data = partial(without_failing_runs, judgement, make)
            st.download_button(label, data, f"verdict.{ending}", mime, on_click="ignore")
    st.caption("The HTML report is one file that opens offline, with evidence, thresholds, options and hashes.")
