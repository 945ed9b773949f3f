"""Runs in training: pages that follow them, the badge of their age, and alerts about their errors."""

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
from validation.files.set_manifest import is_set
from validation.files.training_status import STALE_AFTER
from validation.judgement.judge import Judgement

POLL_SECONDS = 3.0  # between two checks of a run in training
ALERTS_SHOWN = 5  # at once


def is_training(run: Run) -> bool:
    """Return True if the file says that its run has not ended."""
    return run.facts.get("exit_state") == "running"


def seconds_since_last_row(run: Run) -> float:
    """Return the seconds since the newest row was written; infinity if unknown."""
    wall = run.step_column("wall_time")
    wall = wall[np.isfinite(wall)]
    return time.time() - float(wall[-1]) if len(wall) else math.inf


def live_badge(run: Run) -> None:
    """Show "training" or "stale" for a run that has not ended, by the age of its newest row."""
    seconds = seconds_since_last_row(run)
    if seconds < STALE_AFTER:
        st.badge("training", color="green", help=f"Newest row: {max(seconds, 0):.0f} s ago. This page follows the run.")
    else:
        when = f"{seconds / 60:,.0f} minutes ago" if math.isfinite(seconds) else "at an unknown time"
        st.badge("stale", color="gray", help=f"The run has no recorded end. Its newest row was written {when}.")


def growing_runs(judgement: Judgement) -> list[Run]:
    """Return the runs in training on this machine; uploads and sets are copies, which do not grow."""
    here = {source.path for source in library().sources if not source.uploaded and not is_set(source.path)}
    pairs = zip(judgement.runs, judgement.files, strict=True)
    return [run for run, file in pairs if file.path in here and is_training(run)]


def follow(judgement: Judgement, shown_keys: tuple[Key, ...]) -> None:
    """Rerun the page when the file of a run in training has grown."""
    rendered = False

    @st.fragment(run_every=POLL_SECONDS)
    def check() -> None:
        # Not during the page's own run: a file that is written faster than that would restart it forever.
        nonlocal rendered
        if rendered and library().keys() != shown_keys:
            st.rerun()
        rendered = True

    runs = growing_runs(judgement)
    with st.container():  # always there, so that the elements below keep their places, and charts their zoom
        update_alerts(judgement, [run for run in runs if seconds_since_last_row(run) < STALE_AFTER])
        if runs:
            check()


def update_alerts(judgement: Judgement, live: list[Run]) -> None:
    """Update the alerts about live runs: on the page until read or resolved, and once to the operator."""
    started = {run.id: f"{run.id} {run.facts.get('started')}" for run in live}
    raised: dict[tuple[str, str], Finding] = st.session_state.setdefault("alerts", {})
    read: set[tuple[str, str]] = st.session_state.setdefault("alerts_read", set())
    wrong = {
        (finding.run, finding.id): finding
        for finding in reversed(judgement.findings)
        if finding.severity == ERROR and finding.run is not None
    }
    for key, finding in wrong.items():
        if finding.run in started:
            raised[key] = finding
            if sender := _alert_sender(settings().alert_url):
                sender.send_once(started[finding.run], finding)
    for key in [key for key in raised if key not in wrong]:  # resolved, or the run is not chosen any more
        del raised[key]
        read.discard(key)
    _show([finding for key, finding in raised.items() if key not in read])


def _show(findings: list[Finding]) -> None:
    """Show alerts, which screen readers announce, with a link to the Diagnostics page."""
    if not findings:
        return
    with st.container(border=True, key="alerts"):
        for finding in findings[:ALERTS_SHOWN]:
            st.error(f"Run {escape_markdown(str(finding.run))} has an error: {escape_markdown(finding.symptom)}.")
            st.text(f"Seen: {finding.evidence}.\nFix: {finding.fix}.")
        with st.container(horizontal=True, vertical_alignment="center"):
            if st.button("Mark as read", key="alerts-read"):
                st.session_state.alerts_read |= {(finding.run, finding.id) for finding in findings}
                st.rerun()
            st.page_link("pages/5_Diagnostics.py", label="See all checks on the Diagnostics page")


@st.cache_resource(max_entries=1, show_spinner=False)
def _alert_sender(url: str) -> Alerts | None:
    """Return the sender that all sessions share; None without an address of the operator."""
    return Alerts(url) if url else None
