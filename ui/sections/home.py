"""The home page: examples, uploads, runs on this machine, and the verdict of the chosen files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from ui.layout.cards import findings_summary, headline, overall_cards, runs_table
from ui.layout.frame import icon
from ui.layout.shell import REJECTED_SHOWN, TRAIN, judge_library, pick_run, run_header, show_rejected
from ui.session.address import forget, restore
from ui.session.catalog import Entry, catalog, examples
from ui.session.library import Source, library, spool, spool_folder
from ui.settings import settings
from ui.widgets.hints import hint
from ui.widgets.markdown import escape_markdown
from ui.widgets.tables import show_table
from validation.files.sources import FILE_SUFFIXES
from validation.judgement.judge import Judgement
from validation.text import pluralize

POLL_SECONDS = 10.0  # between two searches for new runs in training
MAX_LIVE_SHOWN = 8
MAX_REMOVABLE = 12  # chosen files up to which each has a button to remove it
KINDS = [suffix.removeprefix(".") for suffix in FILE_SUFFIXES]
IN_FOLDERS = [*KINDS, "parquet", "json"]


def home() -> None:
    """Show the page below its title."""
    icon()
    restore()
    if not library().sources:
        first_steps()
        choose()
        return
    hint("Home")
    with st.expander("Add or remove files"):
        choose()
        remove()
    answer()


def answer() -> None:
    """Show what was read, the verdict of all runs, and the picked run."""
    judgement = judge_library()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(read_counts(judgement))
        if st.button("Start over", help="Remove all files from this session."):
            library().sources = []
            forget()
            _rerun_with_new_widgets()
    if not judgement.runs:
        show_rejected(judgement)
        return
    rejected_summary(judgement)
    run = pick_run(judgement)
    several = len(judgement.runs) > 1
    if not several:
        run_header(run)
    headline(judgement)
    overall_cards(judgement)
    if several:
        st.subheader("The picked run", anchor=False)
        run_header(run)
    findings_summary(judgement, run)
    runs_table(judgement)


def read_counts(judgement: Judgement) -> str:
    """Return a sentence with the number of runs read and of files rejected."""
    read, rejected = pluralize(len(judgement.runs), "run"), len(judgement.rejected)
    return f"{read} read, {pluralize(rejected, 'file')} rejected." if rejected else f"{read} read."


def rejected_summary(judgement: Judgement) -> None:
    """Show the rejected files in a few lines, so that the verdict of the others stays in view."""
    lines = [
        f"{finding.symptom[:1].upper()}{finding.symptom[1:]}: {finding.evidence}. Fix: {finding.fix}."
        for finding in judgement.findings_of(None)
    ]
    if lines:
        with st.container(border=True):
            st.badge("not read", color="red")
            st.text("\n".join(lines[:REJECTED_SHOWN]))
            if lines[REJECTED_SHOWN:]:
                with st.expander(f"{len(lines) - REJECTED_SHOWN:,} more"):
                    st.text("\n".join(lines[REJECTED_SHOWN:]))


def first_steps() -> None:
    """Show the first steps: the examples, and the command that trains a run."""
    st.info("No run chosen yet. Open an example, or train a run with the command below and upload its `dynamics.db`.")
    with st.container(horizontal=True):
        for entry in examples():
            if st.button(f"Example: {entry.path.stem.replace('-', ' ')}", key=entry.path.stem):
                _choose([entry.source])
    st.code(TRAIN, language=None, wrap_lines=True)


def choose() -> None:
    """Show the uploader beside the runs on this machine."""
    upload, disk = st.columns(2, gap="large")
    with upload:
        choose_uploads()
    with disk:
        choose_live()
        choose_on_disk()


def choose_uploads() -> None:
    """Show the uploader for files or a folder, and choose what it receives."""
    kind = st.segmented_control("Upload", ["Files", "A folder"], default="Files", required=True, key="what")
    folder = kind == "A folder"
    files = st.file_uploader(
        "A folder of runs, or a set" if folder else "Upload run files",
        accept_multiple_files="directory" if folder else True,
        type=IN_FOLDERS if folder else None,
        key=f"upload-{'folder' if folder else 'files'}-{library().generation}",
        help="Files named dynamics.db, or a zip of them or of a set. Uploads are removed when the session ends.",
    )
    if not files:
        return
    if refusal := limit_exceeded(len(files), sum(file.size for file in files)):
        st.error(refusal)
        return
    chosen = spool_folder(files) if folder else [spool(file) for file in files]
    if chosen:
        _choose(chosen)
    st.error("This folder has no run files (*.db, *.sqlite) and no set. Choose build/runs, or the folder of one run.")


def limit_exceeded(files: int, size: int) -> str:
    """Return the reason why more files or bytes do not fit into this session; empty if they fit."""
    limits, chosen = settings(), library()
    if files + len(chosen.sources) > limits.session_files:
        return (
            f"A session holds at most {pluralize(limits.session_files, 'file')}: it has {len(chosen.sources):,}, and "
            f"{files:,} more do not fit. Choose fewer, or write them as one set with `prismatic compact`."
        )
    if size + chosen.uploaded_bytes() > limits.session_megabytes << 20:
        return (
            f"A session holds at most {limits.session_megabytes:,} MB of uploads: it has "
            f"{chosen.uploaded_bytes() / 2**20:,.0f} MB, and {size / 2**20:,.0f} MB more do not fit. "
            "Upload fewer files."
        )
    return ""


@st.fragment(run_every=POLL_SECONDS)
def choose_live() -> None:
    """Show a button for each run in training on this machine."""
    chosen = {source.path for source in library().sources}
    live = [entry for entry in catalog() if entry.training and entry.path not in chosen]
    if not live:
        return
    st.caption("In training on this machine:")
    with st.container(horizontal=True):
        for entry in live[:MAX_LIVE_SHOWN]:
            seconds = max(time.time() - entry.written, 0)
            if st.button(
                f"Follow {escape_markdown(entry.name)}",
                key=f"follow-{entry.key}",
                help=f"Last written {seconds:.0f} s ago",
            ):
                _choose([entry.source])
    if len(live) > MAX_LIVE_SHOWN:
        st.caption(f"The table lists {len(live) - MAX_LIVE_SHOWN:,} more.")


def choose_on_disk() -> None:
    """Show a table of the runs and sets in the server's folders, from which rows are picked."""
    chosen = library()
    found = _listing(chosen.generation)
    if not found:
        st.caption("There are no runs on this machine yet. Runs trained here will be listed in a table.")
        return
    words = st.text_input(
        f"Or pick from {pluralize(len(found), 'run')} on this machine", key="filter", placeholder="Part of a name"
    )
    shown = [entry for entry in found if words.lower() in entry.name.lower()]
    picked = show_table(
        [_row(entry, len({entry.folder for entry in found}) > 1) for entry in shown],
        key=f"disk-{chosen.generation}-{words}",
        on_select="rerun",
        selection_mode="multi-row",
        most=6,
        column_config={
            "size, MB": st.column_config.NumberColumn(format="%.1f"),
            "written, UTC": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm"),
        },
    ).selection.rows
    sources, label = _sources_and_label(shown, picked)
    with st.container(horizontal=True):
        if st.button(label, disabled=not sources, key="read-picked"):
            if refusal := limit_exceeded(len(sources), 0):
                st.error(refusal)
            else:
                _choose(sources)
        if st.button("Refresh", help="List runs that were added since this table was made."):
            _rerun_with_new_widgets()


def _sources_and_label(shown: Sequence[Entry], picked: Sequence[int]) -> tuple[list[Source], str]:
    """Return what the button reads and its label: the picked rows, or all shown (rows cannot be picked by keyboard)."""
    if picked:
        sources = [shown[row].source for row in picked if row < len(shown)]
        return sources, f"Read {len(sources):,} picked"
    if 0 < len(shown) <= settings().session_files:
        return [entry.source for entry in shown], f"Read all {len(shown):,} shown"
    return [], "Pick rows, or enter part of a name"


def _row(entry: Entry, several_folders: bool) -> dict[str, Any]:
    written = datetime.fromtimestamp(entry.written, UTC)
    row: dict[str, Any] = {"run": entry.name, "state": "training" if entry.training else ""}
    if several_folders:
        row["folder"] = entry.folder
    return row | {"written, UTC": written, "size, MB": entry.size / 2**20 if entry.size else None}


def _listing(generation: int) -> Sequence[Entry]:
    """Return the catalog as the table shows it; it stays the same while rows are picked by their positions."""
    if st.session_state.get("listing", (None, ()))[0] != generation:
        st.session_state.listing = (generation, catalog())
    found: Sequence[Entry] = st.session_state.listing[1]
    return found


def remove() -> None:
    """Show a button for each chosen file that removes it."""
    sources = library().sources
    if not 1 < len(sources) <= MAX_REMOVABLE:
        return
    st.caption("Chosen files:")
    with st.container(horizontal=True):
        for number, source in enumerate(sources):
            if st.button(f"Remove {escape_markdown(source.name[:60])}", key=f"remove-{library().generation}-{number}"):
                library().sources = [other for other in sources if other != source]
                _rerun_with_new_widgets()


def _choose(sources: Sequence[Source]) -> None:
    for source in sources:
        library().add(source)
    _rerun_with_new_widgets()


def _rerun_with_new_widgets() -> None:
    library().generation += 1
    st.rerun()
