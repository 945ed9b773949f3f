"""Home: choose run files and read the verdict."""

import streamlit as st

from ui.shell import (
    EXAMPLES,
    MAX_FILES,
    RUNS,
    TRAIN,
    Source,
    frame,
    introduce,
    judged,
    library,
    pick_run,
    show_rejected,
    spool,
)
from ui.views import claim_cards, findings_summary, headline, runs_table
from validation.sets import MARK

frame("Prismatic")
st.title("Did perturbation change what the experts learn?")
st.caption(
    "Prismatic reads the gradient dynamics of a training run and judges three claims, awakening, divergence and "
    "sustainment, beyond what routing alone would show."
)


def choose_files() -> None:
    """Upload, or pick what is on this machine."""
    chosen = library()
    upload, disk = st.columns(2, gap="large")
    with upload:
        files = st.file_uploader(
            "Upload run files",
            accept_multiple_files=True,
            key=f"upload-{chosen.generation}",
            help="Files named dynamics.db, or a zip of them. They stay in this session and are removed when it ends.",
        )
        if files and len(files) + len(chosen.sources) > MAX_FILES:
            st.error(
                f"{len(files)} files at once; at most {MAX_FILES} fit in one session. Remove some and upload fewer."
            )
        elif files:
            for file in files:
                chosen.add(spool(file))
            chosen.generation += 1
            st.rerun()
    with disk:
        pick_from_disk()


def pick_from_disk() -> None:
    """Runs of this machine's trainer, and the examples that come with the project."""
    chosen = library()
    found = {path: f"{path.parent.name}/{path.name}" for path in sorted(RUNS.glob("*/dynamics.db"))}
    found |= {mark.parent: f"set: {mark.parent.name}" for mark in sorted(RUNS.glob(f"*/{MARK}"))}
    found |= {path: f"example: {path.stem}" for path in sorted(EXAMPLES.glob("*.db"))}
    shown = [source.path for source in chosen.sources if source.path in found]
    picked = st.multiselect(
        "Or pick runs on this machine",
        list(found),
        default=shown,
        format_func=lambda path: found[path],
        key=f"disk-{chosen.generation}",
        placeholder="Trained here, or an example",
    )
    if picked != shown:
        chosen.sources = [source for source in chosen.sources if source.uploaded]
        for path in picked:
            chosen.add(Source(path, found[path]))
        st.rerun()
    if chosen.sources and st.button("Start over", help="Remove all files from this session"):
        chosen.sources.clear()
        chosen.generation += 1
        st.rerun()


def first_steps() -> None:
    """What a newcomer sees."""
    st.info("No run chosen yet. Train one, upload its `dynamics.db`, or look at an example first.")
    st.code(TRAIN, language="bash")
    examples = sorted(EXAMPLES.glob("*.db"))
    with st.container(horizontal=True):
        for path in examples:
            if st.button(f"Example: {path.stem.replace('-', ' ')}", key=path.stem):
                library().add(Source(path, f"example: {path.stem}"))
                library().generation += 1
                st.rerun()


choose_files()
if not library().sources:
    first_steps()
    st.stop()

judgement = judged()
show_rejected(judgement)
if not judgement.runs:
    st.stop()
run = pick_run(judgement)
introduce(run)
headline(judgement, run)
claim_cards(judgement, run)
findings_summary(judgement, run)
runs_table(judgement)
