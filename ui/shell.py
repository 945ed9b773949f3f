"""What every page shares: the page's frame, the session's run files, the picked run, and the empty state.

Pages are thin: `judgement, run = shell("Title")` and then they ask, judge and draw. Uploads are written to a private
folder of the session under their own hash and deleted when the session ends. Names of files and their words are data:
they are shown as plain text, never as markup.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from validation.cache import Cache
from validation.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED
from validation.diagnostics import ERROR, INFO, WARNING, Finding
from validation.judge import Judgement, judge
from validation.series import Run
from validation.sets import is_set
from validation.sources import read_sources

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
RUNS = Path(os.environ.get("PRISMATIC_RUNS", ROOT / "build" / "runs"))
MAX_FILES = 200
LOOK_EVERY = 3.0  # seconds between two looks at a run that is being trained
STALE_AFTER = 600.0  # seconds without a new row
PAGES = {
    "app.py": "Home",
    "pages/1_Dynamics.py": "Dynamics",
    "pages/2_Verdict.py": "Verdict",
    "pages/3_Layers.py": "Layers",
    "pages/4_Compare.py": "Compare",
    "pages/5_Diagnostics.py": "Diagnostics",
    "pages/6_Runs.py": "Runs",
}
SEVERITY_COLORS = {ERROR: "red", WARNING: "orange", INFO: "blue"}
COLORS = {SUPPORTED: "green", REFUTED: "red", INCONCLUSIVE: "gray", CONFOUNDED: "orange", INVALID: "violet"}
TRAIN = "python -m prismatic train --config experiments/prismatic.yml"


@dataclass(frozen=True)
class Source:
    """A run file of this session: where it is, what it is called, and whether it is our own private copy."""

    path: Path
    name: str
    uploaded: bool = False


@dataclass
class Library:
    """The run files that this session has chosen, in the order in which they came."""

    sources: list[Source] = field(default_factory=list)
    generation: int = 0
    """Part of the uploader's key: a new one empties the widget and frees what it held."""

    def add(self, source: Source) -> None:
        """Add a file once."""
        if source.path not in {known.path for known in self.sources}:
            self.sources.append(source)


def library() -> Library:
    """This session's library."""
    if "library" not in st.session_state:
        st.session_state.library = Library()
    found: Library = st.session_state.library
    return found


def frame(title: str) -> None:
    """Page config, and the navigation: Streamlit's own would call the home page "app"."""
    st.set_page_config(page_title=f"{title} · Prismatic", page_icon=str(ROOT / "docs" / "icon.png"), layout="wide")
    if _must_log_in():
        st.title("Prismatic")
        st.info("This server shows runs to people it knows. Log in first.")
        st.button("Log in", on_click=st.login, type="primary")
        st.stop()
    for page, label in PAGES.items():
        st.sidebar.page_link(page, label=label)


def _must_log_in() -> bool:
    """Whether the server has a login ([auth] in .streamlit/secrets.toml) and this session has not passed it."""
    try:
        wanted = "auth" in st.secrets
    except FileNotFoundError:  # no secrets, no login
        return False
    return wanted and not st.user.get("is_logged_in", False)


def shell(title: str) -> tuple[Judgement, Run]:
    """The frame of a page about one run: its title, and the run picked in the sidebar. Stops where there is no run."""
    judgement = shell_of_all(title)
    run = pick_run(judgement)
    introduce(run)
    return judgement, run


def shell_of_all(title: str) -> Judgement:
    """The frame of a page about all chosen runs. Stops where there is none."""
    frame(title)
    st.title(title)
    if not library().sources:
        empty_state()
        st.stop()
    judgement = judged()
    if not judgement.runs:
        show_rejected(judgement)
        st.page_link("app.py", label="Choose other files on the home page")
        st.stop()
    return judgement


def introduce(run: Run) -> None:
    """Which run this is, and what nobody may overlook about it on any page."""
    scale, seed = run.number("config.perturbation_scale"), run.seed
    merge = next((known for known in ("batch", "example") if run.config.get("merge") == known), None)
    facts = [f"run {run.run}", f"{len(run.steps)} logged steps", f"{len(run.experts)} experts"]
    facts += [f"scale {scale:g}"] if scale is not None else []
    facts += [f"merge {merge}"] if merge else []
    facts += [f"seed {seed}"] if seed is not None else []
    st.caption(plain(" · ".join(facts)))
    with st.container(horizontal=True):
        if not run.finished:
            st.badge("provisional", color="blue", help="The run has not reached its planned end.")
        if is_training(run):
            _how_live(run)
        elif run.facts.get("exit_state") in ("crashed", "interrupted"):
            st.badge(str(run.facts["exit_state"]), color="orange", help="The run ended before its planned end.")
        if run.is_positive_control:
            st.badge("positive control: the effect was put in by hand", color="orange")


def _how_live(run: Run) -> None:
    """Whether a run that has not ended still grows; of an upload nothing can be known but its last row."""
    wall = run.step_column("wall_time")
    wall = wall[np.isfinite(wall)]
    age = time.time() - float(wall[-1]) if len(wall) else math.inf
    if age < STALE_AFTER:
        st.badge("training", color="green", help=f"Newest row {max(age, 0):.0f} s ago; this page follows the run.")
    else:
        when = f"{age / 60:,.0f} minutes ago" if math.isfinite(age) else "at an unknown time"
        st.badge("stale", color="gray", help=f"The run never ended, and its newest row was written {when}.")


def pick_run(judgement: Judgement) -> Run:
    """The run that this page is about, by its id, which is safe to show; remembered from page to page."""
    runs = {run.run: run for run in judgement.runs}
    if len(runs) == 1:
        return judgement.runs[0]
    names = list(runs)
    remembered = st.session_state.get("picked_run")
    chosen = st.sidebar.selectbox("Run", names, index=names.index(remembered) if remembered in names else 0)
    st.session_state.picked_run = chosen
    st.sidebar.text(runs[chosen].name)
    return runs[chosen]


def empty_state() -> None:
    """What to do when there is nothing to show yet."""
    st.info("No run yet. Train one, then choose its `dynamics.db` on the home page:")
    st.code(TRAIN, language="bash")
    st.page_link("app.py", label="Go to the home page, or see an example there")


Key = tuple[Source, int, int]


def judged() -> Judgement:
    """The judgement of every file in the library; files are read again only when they have changed."""
    keys = _keys()
    judgement = _judged(keys, tuple(sorted(changed().items())))
    _watch(judgement, keys)
    return judgement


def _keys() -> tuple[Key, ...]:
    """Each chosen file with what changes when it is written: time and size."""
    keys = []
    for source in library().sources:
        try:
            state = source.path.stat()
            keys.append((source, state.st_mtime_ns, state.st_size))
        except OSError:
            keys.append((source, 0, 0))
    return tuple(keys)


def _watch(judgement: Judgement, seen: tuple[Key, ...]) -> None:
    """While a chosen run is being trained: look every few seconds whether its file has grown, and show it then."""
    if not any(is_training(run) for run in judgement.runs) or all(source.uploaded for source, _, _ in seen):
        return

    @st.fragment(run_every=LOOK_EVERY)
    def look() -> None:
        if _keys() != seen:
            st.rerun()

    look()


def is_training(run: Run) -> bool:
    """Whether the file says that its run has not come to an end."""
    return run.facts.get("exit_state") == "running"


def changed() -> dict[str, float]:
    """The thresholds that this session has set itself, beside those that the runs registered."""
    found: dict[str, float] = st.session_state.setdefault("changed_thresholds", {})
    return found


@st.cache_resource(scope="session", max_entries=4, show_spinner="Reading and judging…")
def _judged(keys: tuple[Key, ...], thresholds: tuple[tuple[str, float], ...]) -> Judgement:
    # A set is known by its place, a file by its place and the name to show.
    chosen = [source.path if is_set(source.path) else (source.path, source.name) for source, _, _ in keys]
    # Our own copies cannot change under us; files on disk may still be written by a training run.
    private = {source.path for source, _, _ in keys if source.uploaded}
    # What an upload held goes with the session, as the upload does: not into the user's own cache.
    return judge(*read_sources(chosen, private=private, cache=cache()), dict(thresholds))


@st.cache_resource(scope="session", show_spinner=False)
def cache() -> Cache:
    """What this session has read: it goes on with the files of runs that are being trained where it ended before."""
    return Cache(spool_folder() / "cache")


@st.cache_resource(scope="session", on_release=shutil.rmtree, show_spinner=False)
def spool_folder() -> Path:
    """A private folder for this session's uploads, removed when the session ends."""
    return Path(tempfile.mkdtemp(prefix="prismatic-"))


def spool(upload: Any) -> Source:
    """Write an upload to the session's folder under its hash: its own name never becomes a path."""
    data = upload.getbuffer()
    path = spool_folder() / f"{hashlib.sha256(data).hexdigest()}.db"
    if not path.exists():
        path.write_bytes(data)
    return Source(path, str(upload.name), uploaded=True)


def show_rejected(judgement: Judgement) -> None:
    """Each file that could not be read, with what was seen, why, and what to do."""
    for finding in judgement.findings:
        if finding.run is None:
            show_finding(finding)


def show_finding(finding: Finding) -> None:
    """What is seen, the evidence, the cause, the fix.

    As plain text and never as markup: these words quote the file, and a file's words may try to be a link, a picture or
    an icon. Escaping does not help, since addresses are recognised after it.
    """
    with st.container(border=True):
        st.badge(finding.severity, color=SEVERITY_COLORS[finding.severity])
        st.text(finding.symptom[:1].upper() + finding.symptom[1:] + ".")
        st.text(f"Seen: {finding.evidence}.\nCause: {finding.cause}.\nFix: {finding.fix}.")


def plain(text: str) -> str:
    """A sentence of our own for st.markdown, in which brackets, stars and underscores are what they are."""
    return re.sub(r"[^\w\s,.;%×·–—…≥≤∞-]|_", lambda match: f"&#{ord(match[0])};", text)


def sentence(text: str) -> str:
    """The same as a sentence with its capital and its full stop."""
    return plain(text[:1].upper() + text[1:]) + "."


def status_badge(status: str) -> None:
    """A status as a coloured word; never by colour alone."""
    st.badge(status, color=COLORS[status])
