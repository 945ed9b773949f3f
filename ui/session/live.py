"""Runs that are being trained: followed by the pages that show them, and alerted about when one turns bad."""

from __future__ import annotations

import math
import time

import numpy as np
import streamlit as st

from ui.session.alerts import Alerts
from ui.session.library import Key, library
from ui.settings import settings
from ui.widgets.markdown import escape_markdown
from validation.analysis.run import Run
from validation.diagnostics import ERROR, Finding
from validation.files.parquet_set import is_set
from validation.files.training_status import STALE_AFTER
from validation.judgement.judge import Judgement

POLL_SECONDS = 3.0  # seconds between two looks at a run that is being trained
ALERTS_SHOWN = 5  # alerts shown at once


def is_training(run: Run) -> bool:
    """Whether the file says that its run has not come to an end."""
    return run.facts.get("exit_state") == "running"


def seconds_since_last_row(run: Run) -> float:
    """Seconds since the newest row was written; infinite where that is unknown."""
    wall = run.step_column("wall_time")
    wall = wall[np.isfinite(wall)]
    return time.time() - float(wall[-1]) if len(wall) else math.inf


def live_badge(run: Run) -> None:
    """Whether a run that has not ended still grows; of an upload nothing can be known but its last row."""
    seconds = seconds_since_last_row(run)
    if seconds < STALE_AFTER:
        st.badge("training", color="green", help=f"Newest row {max(seconds, 0):.0f} s ago; this page follows the run.")
    else:
        when = f"{seconds / 60:,.0f} minutes ago" if math.isfinite(seconds) else "at an unknown time"
        st.badge("stale", color="gray", help=f"The run never ended, and its newest row was written {when}.")


def growing_runs(judgement: Judgement) -> list[Run]:
    """The runs that are being trained on this machine: uploads and sets are copies, and do not grow."""
    here = {source.path for source in library().sources if not source.uploaded and not is_set(source.path)}
    pairs = zip(judgement.runs, judgement.files, strict=True)
    return [run for run, file in pairs if file.path in here and is_training(run)]


def follow(judgement: Judgement, seen: tuple[Key, ...]) -> None:
    """While a chosen run is being trained: look every few seconds whether its file has grown, and show it then."""

    shown = False

    @st.fragment(run_every=POLL_SECONDS)
    def look() -> None:
        # Not while the page is still being made: a run that is written faster than that would never let it end.
        nonlocal shown
        if shown and library().keys() != seen:
            st.rerun()
        shown = True

    runs = growing_runs(judgement)
    with st.container():  # always there, so that what follows keeps its place, and a chart its zoom
        update_alerts(judgement, [run for run in runs if seconds_since_last_row(run) < STALE_AFTER])
        if runs:
            look()


def update_alerts(judgement: Judgement, live: list[Run]) -> None:
    """Say what is wrong with the live runs: on the page until it is read or mended, and once to the operator."""
    started = {run.id: f"{run.id} {run.facts.get('started')}" for run in live}
    told: dict[tuple[str, str], Finding] = st.session_state.setdefault("alerts", {})
    read: set[tuple[str, str]] = st.session_state.setdefault("alerts_read", set())
    wrong = {
        (finding.run, finding.id): finding
        for finding in reversed(judgement.findings)
        if finding.severity == ERROR and finding.run is not None
    }
    for key, finding in wrong.items():
        if finding.run in started:
            told[key] = finding
            if sender := _alert_sender(settings().alert_url):
                sender.send_once(started[finding.run], finding)
    for key in [key for key in told if key not in wrong]:  # it was mended, or the run is not shown any more
        del told[key]
        read.discard(key)
    _show([finding for key, finding in told.items() if key not in read])


def _show(findings: list[Finding]) -> None:
    """An alert that screen readers announce, with the way to all that is known."""
    if not findings:
        return
    with st.container(border=True, key="alerts"):
        for finding in findings[:ALERTS_SHOWN]:
            st.error(f"Run {escape_markdown(str(finding.run))} has turned bad: {escape_markdown(finding.symptom)}.")
            st.text(f"Seen: {finding.evidence}.\nFix: {finding.fix}.")
        with st.container(horizontal=True, vertical_alignment="center"):
            if st.button("Mark as read", key="alerts-read"):
                st.session_state.alerts_read |= {(finding.run, finding.id) for finding in findings}
                st.rerun()
            st.page_link("pages/5_Diagnostics.py", label="What else was checked")


@st.cache_resource(max_entries=1, show_spinner=False)
def _alert_sender(url: str) -> Alerts | None:
    """The server's one sender, of all sessions; None where the operator named no address."""
    return Alerts(url) if url else None
