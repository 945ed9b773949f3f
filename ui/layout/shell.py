"""The shell of every page about runs: judged files, run picker, empty state, badges, findings and their colours.

A page begins with `judgement, run = shell("Title")`. Names and words from files are shown as plain text, never as
markup.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import streamlit as st

from ui.layout.frame import frame, icon
from ui.layout.live_panel import live_panel
from ui.session.address import remember, restore
from ui.session.library import library
from ui.session.live import follow, is_training, live_badge
from ui.widgets.about import ABOUT
from ui.widgets.guard import guarded
from ui.widgets.markdown import escape_markdown
from ui.widgets.placeholder import placeholder
from validation.analysis.run import Run
from validation.diagnostics import ERROR, INFO, WARNING, Finding
from validation.judgement.judge import Judgement
from validation.method.terms import explain
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED
from validation.verdict.words.statuses import SELF_TEST, Shown, shown_group

Color = Literal["red", "orange", "blue", "green", "violet", "gray"]
"""A colour name of Streamlit."""
SEVERITY_COLORS: dict[str, Color] = {ERROR: "red", WARNING: "orange", INFO: "blue"}
STATUS_COLORS: dict[str, Color] = {
    SUPPORTED: "green",
    REFUTED: "red",
    INCONCLUSIVE: "gray",
    CONFOUNDED: "orange",
    INVALID: "violet",
    SELF_TEST: "blue",
}
TRAIN = "prismatic train --config experiments/prismatic.yml"
PROGRESS_SECONDS = 0.1  # between two updates of a progress bar
REJECTED_SHOWN = 3
PICKER = "run-picker"  # key of the selectbox in the sidebar


def shell(title: str) -> tuple[Judgement, Run]:
    """Begin a page about one run; return the judgement and the picked run. Stops the page if there is no run."""
    judgement = _judgement_or_stop(title)
    run = pick_run(judgement)
    run_header(run)
    live_panel(judgement, run)
    return judgement, run


def shell_all_runs(title: str) -> Judgement:
    """Begin a page about all chosen runs; return their judgement. Stops the page if there is no run."""
    judgement = _judgement_or_stop(title)
    pick_run(judgement)
    return judgement


def _judgement_or_stop(title: str) -> Judgement:
    frame(title)
    st.title(title, help=ABOUT[title])
    icon()
    restore()
    if not library().sources:
        empty_state(title)
        st.stop()
    judgement = judge_library()
    if not judgement.runs:
        show_rejected(judgement)
        st.page_link("app.py", label="Choose other files on the home page")
        st.stop()
    return judgement


@guarded
def run_header(run: Run) -> None:
    """Show the run's main facts, and badges for an unfinished run and for a positive control."""
    scale, seed = run.option("perturbation_scale"), run.seed
    merge = next((known for known in ("batch", "example") if run.config.get("merge") == known), None)
    facts = [f"run {run.id}", f"{len(run.steps):,} logged steps", f"{len(run.experts)} experts"]
    facts += [f"scale {scale:g}"] if scale is not None else []
    facts += [f"merge {merge}"] if merge else []
    facts += [f"seed {seed}"] if seed is not None else []
    st.caption(escape_markdown(" · ".join(facts)))
    with st.container(horizontal=True):
        if not run.finished:
            st.badge("provisional", color="gray", help="The run has not reached its planned number of steps.")
        if is_training(run):
            live_badge(run)
        elif run.facts.get("exit_state") in ("crashed", "interrupted"):
            st.badge(
                str(run.facts["exit_state"]), color="orange", help="The run ended before its planned number of steps."
            )
        if run.is_positive_control:
            st.badge("positive control: the effect was put in by hand", color="blue", help=explain("positive control"))


def pick_run(judgement: Judgement) -> Run:
    """Return the run picked in the sidebar, which stays the same on all pages, and show it there with its status."""
    runs = {run.id: run for run in ordered_runs(judgement)}
    remembered = str(st.session_state.get("picked_run"))
    picked = remembered if remembered in runs else next(iter(runs))
    with st.sidebar:
        st.space("small")
        if len(runs) > 1:
            st.session_state[PICKER] = picked
            st.selectbox("Run", list(runs), key=PICKER, on_change=lambda: choose_run(st.session_state[PICKER]))
        _chosen_run(judgement, runs[picked])
    remember(judgement, picked)
    return runs[picked]


def choose_run(name: str) -> None:
    """Pick a run for all pages."""
    st.session_state.picked_run = name


def _chosen_run(judgement: Judgement, run: Run) -> None:
    """Show a run and the status of its group; its words come from a file, so they are plain text."""
    group = judgement.group_of(run.id)
    with st.container(key="chosen-run", gap="xsmall"):
        if len(judgement.runs) == 1:
            st.text(f"Run {run.id}")
        seed = "" if run.seed is None else f"seed {run.seed}"
        st.text("\n".join(filter(None, [run.name, seed])))
        shown_badge(shown_group(group))
        if len(group.runs) > 1:
            st.caption(f"{len(group.runs):,} runs that differ only in the seed", help=explain("seed"))


def ordered_runs(judgement: Judgement) -> list[Run]:
    """Return the runs by their groups, in a group by their seeds."""
    place = {run: number for number, group in enumerate(judgement.verdict.groups) for run in group.runs}
    return sorted(judgement.runs, key=lambda run: (place[run.id], run.seed is None, run.seed or 0))


def empty_state(title: str) -> None:
    """Show what the page would show, and the next step, when no run is chosen."""
    st.markdown(ABOUT[title])
    placeholder(title)
    st.page_link("app.py", label="Choose a run or an example on the home page", icon=":material/folder_open:")
    st.caption("Or train a run, then choose its dynamics.db there:")
    st.code(TRAIN, language=None, wrap_lines=True)


def judge_library() -> Judgement:
    """Return the judgement of all files in the library, with a progress bar when files are read first."""
    chosen, place = library(), st.container(gap=None)
    bar = place.empty()
    keys = chosen.keys()
    # New rows of a known run are read in a moment: a bar for them would make the page jump every few seconds.
    progress = None if chosen.has_read(keys) else _progress_reporter(bar)
    judgement = chosen.judged(keys, tuple(sorted(session_thresholds().items())), progress)
    bar.empty()
    with place:
        follow(judgement, keys)
    return judgement


def _progress_reporter(bar: st.delta_generator.DeltaGenerator) -> Callable[[int, int], None]:
    """Return a function of (files read, all files) that updates the progress bar."""
    bar.progress(0.0, "Opening the files")
    moved = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal moved
        if done < total and time.monotonic() - moved < PROGRESS_SECONDS:
            return
        moved = time.monotonic()
        text = f"Reading file {done + 1:,} of {total:,}" if done < total else f"Judging {total:,} files"
        bar.progress(done / max(total, 1), text)

    return report


def session_thresholds() -> dict[str, float]:
    """Return the thresholds that this session has changed; they replace those that the runs registered."""
    changed: dict[str, float] = st.session_state.setdefault("changed_thresholds", {})
    return changed


def show_rejected(judgement: Judgement) -> None:
    """Show each file that could not be read, with evidence, cause and fix."""
    rejected = judgement.findings_of(None)
    for finding in rejected[:REJECTED_SHOWN]:
        finding_card(finding)
    if more := rejected[REJECTED_SHOWN:]:
        with st.expander(f"{len(more):,} more files could not be read"):
            for finding in more:
                finding_card(finding)


def finding_card(finding: Finding) -> None:
    """Show a finding in a frame."""
    with st.container(border=True):
        show_finding(finding)


def show_finding(finding: Finding) -> None:
    """Show a finding's symptom, evidence, cause and fix.

    They quote the file, so they are plain text: markdown would turn a file's words into links, pictures or icons, and
    Streamlit recognises addresses even in escaped text.
    """
    st.badge(finding.severity, color=SEVERITY_COLORS[finding.severity])
    st.text(finding.symptom[:1].upper() + finding.symptom[1:] + ".")
    st.text(f"Seen: {finding.evidence}.\nCause: {finding.cause}.\nFix: {finding.fix.replace('`', '')}.")


def shown_badge(shown: Shown) -> None:
    """Show a status as readers see it: its icon and word in its colour. It wraps, as a badge would not."""
    st.markdown(f":{STATUS_COLORS[shown.kind]}[**{shown.icon} {shown.word}**]")
