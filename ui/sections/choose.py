"""Choosing runs: the uploader, the runs on this machine, and the files that are chosen already."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from ui.session.catalog import Entry, catalog
from ui.session.library import Source, library, spool, spool_folder
from ui.settings import settings
from ui.widgets.markdown import escape_markdown
from ui.widgets.tables import show_table
from validation.files.sources import FILE_SUFFIXES
from validation.text import pluralize

POLL_SECONDS = 10.0  # between two searches for new runs in training
MAX_LIVE_SHOWN = 8
MAX_REMOVABLE = 12  # chosen files up to which each has a button to remove it
KINDS = [suffix.removeprefix(".") for suffix in FILE_SUFFIXES]
IN_FOLDERS = [*KINDS, "parquet", "json"]


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
        "Drop a folder of runs here, or a set" if folder else "Drop run files here",
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
    try:
        chosen = spool_folder(files) if folder else [spool(file) for file in files]
    except OSError as error:
        st.error(
            f"The upload could not be stored: {error.strerror}. Ask the operator of this server, then upload it again."
        )
        return
    if chosen:
        choose_sources(chosen)
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
    st.caption("In training:")
    with st.container(horizontal=True):
        for entry in live[:MAX_LIVE_SHOWN]:
            seconds = max(time.time() - entry.written, 0)
            if st.button(
                f"Follow {escape_markdown(entry.name)}",
                key=f"follow-{entry.key}",
                help=f"Last written {seconds:.0f} s ago",
            ):
                choose_sources([entry.source])
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
        f"Pick from {pluralize(len(found), 'run')} on this machine", key="filter", placeholder="Part of a name"
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
                choose_sources(sources)
        if st.button("Refresh", help="List runs that were added since this table was made."):
            rerun_with_new_widgets()


def _sources_and_label(shown: Sequence[Entry], picked: Sequence[int]) -> tuple[list[Source], str]:
    """Return what the button reads and its label: the picked rows, or all that are shown."""
    if picked:
        sources = [shown[row].source for row in picked if row < len(shown)]
        return sources, f"Read {len(sources):,} picked"
    if 0 < len(shown) <= settings().session_files:
        what = f"all {len(shown):,} runs" if len(shown) > 1 else "this run"
        return [entry.source for entry in shown], f"Read {what}"
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
                rerun_with_new_widgets()


def choose_sources(sources: Sequence[Source]) -> None:
    """Add these files to the session, and show the page again."""
    for source in sources:
        library().add(source)
    rerun_with_new_widgets()


def rerun_with_new_widgets() -> None:
    """Show the page again with empty widgets, so that the uploader frees its memory."""
    library().generation += 1
    st.rerun()
