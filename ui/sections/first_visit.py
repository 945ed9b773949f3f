"""The first visit of Home, where no run is chosen: a drop zone, examples as cards, and the runs of this machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import streamlit as st

from ui.layout.shell import TRAIN, shown_badge
from ui.sections.choose import choose_live, choose_on_disk, choose_sources, choose_uploads
from ui.session.catalog import Entry, examples, studies
from ui.session.library import library
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED
from validation.verdict.words.statuses import SELF_TEST, Shown

DROP = "drop"  # key of the container that holds the uploader
CARD = "card"  # begins the key of a card
LARGE = (
    f"<style>.st-key-{DROP} [data-testid=stFileUploaderDropzone] "
    "{ min-height: 8rem; align-items: center; justify-content: center } "
    f".st-key-{DROP} [data-testid=stFileUploaderDropzoneInstructions] {{ flex: none; align-self: center }} "
    # On a phone the wide picture of the study would be a thin strip: its sides, which are empty, are cut instead.
    f"[class*=st-key-{CARD}] img {{ min-height: 6rem; object-fit: cover }}</style>"
)
LEGEND = (
    "Pictures: gradient norms of the smallest weights over training, in blue the clean expert, in red the perturbed "
    "experts, in grey the controls; of the study, the gain in each seed with its interval."
)


@dataclass(frozen=True)
class Card:
    """An example as the first page shows it. A test compares `shown` with the verdict of its files."""

    title: str
    shown: Shown
    lesson: str
    button: str


CARDS = {
    "as-is": Card(
        "The documented run",
        Shown(CONFOUNDED, "confounded by routing"),
        "All experts share one gradient, so every difference between their norms is the router's.",
        "Open the documented run",
    ),
    "positive-control": Card(
        "A positive control",
        Shown(SELF_TEST, "self-test passed"),
        "An effect that was put in by hand, four times the gradient, is found.",
        "Open the positive control",
    ),
    "zero-norms": Card(
        "A run logged too late",
        Shown(INVALID, "invalid"),
        "Its gradients were cleared before they were logged: the page names cause and fix.",
        "Open the run logged too late",
    ),
    "per-example": Card(
        "One merge per example",
        Shown(INCONCLUSIVE, "inconclusive"),
        "Here gradients can differ, and control experts show by how much they do by chance.",
        "Open per-example merge",
    ),
    "upcycled-mixtral": Card(
        "An upcycled Mixtral",
        Shown(REFUTED, "refuted"),
        "Copies of a Llama's MLPs, some half re-initialised: bottom weights gain nothing, plain copies differ, too.",
        "Open the upcycled Mixtral",
    ),
    "study": Card(
        "A study over six seeds",
        Shown(REFUTED, "refuted"),
        "24 runs at three scales, with control experts and sham runs, rule out an awakening of 1.10x or more.",
        "Open the study",
    ),
}

STUDIES = {
    "dose": Card(
        "Does more noise awaken more?",
        Shown(REFUTED, "refuted"),
        "No: at three scales the bottom weights gain 0.97x to 1.00x over the controls, and 1.10x is ruled out.",
        "Open the dose study",
    ),
    "upcycling": Card(
        "Do copies of one MLP come apart?",
        Shown(REFUTED, "refuted"),
        "Plain copies do by training alone, half re-initialised ones more so; but no bottom weights awaken.",
        "Open the upcycling study",
    ),
    "lora": Card(
        "Do adapters follow their tasks?",
        Shown(INCONCLUSIVE, "inconclusive"),
        "On two tasks they learn differently and keep doing so; of awakening six seeds cannot tell.",
        "Open the adapter study",
    ),
}
"""Studies whose hypotheses were registered before their first run, in the order of the page."""


def first_visit() -> None:
    """Show the drop zone, the examples, the runs of this machine, and the command that trains a run."""
    st.html(LARGE)
    with st.container(key=DROP):
        choose_uploads()
    st.markdown("### Or open an example")
    _cards({entry.path.stem: entry for entry in examples()})
    _studies({entry.path.name: entry for entry in studies()})
    st.markdown("### Runs on this machine")
    choose_live()
    choose_on_disk()
    st.caption("Train a run:")
    st.code(TRAIN, language=None, wrap_lines=True)


def _cards(entries: dict[str, Entry]) -> None:
    """Show a card for each example, three in a row; the last one, the study, is twice as wide as those beside it."""
    names = [name for name in CARDS if name in entries]
    places = [*st.columns(3), *st.columns([1, 1, 2])]
    for place, name in zip(places, names, strict=False):
        with place, st.container(border=True, height="stretch", key=f"{CARD}-{name}"):
            _card(CARDS[name], entries[name])
    st.caption(LEGEND)


def _card(card: Card, entry: Entry) -> None:
    st.image(_picture(entry.path), width="stretch", alt=f"Small chart: {card.title.lower()}")
    with st.container(gap="xsmall"):
        st.markdown(f"**{card.title}**")
        shown_badge(card.shown)
    st.caption(card.lesson)
    with st.container(horizontal=True):
        if st.button(card.button, key=entry.path.stem):
            choose_sources([entry.source])
        if entry.path.is_dir() and st.button("Compare its seeds", key=f"{entry.path.stem}-compare"):
            library().add(entry.source)
            st.switch_page("pages/4_Compare.py")


def _studies(entries: dict[str, Entry]) -> None:
    """Show a small card for each study, whose answers are on the Compare page."""
    names = [name for name in STUDIES if name in entries]
    if not names:  # an installation without them
        return
    st.markdown("**Studies** of six seeds each, with hypotheses that were registered before the first run")
    for place, name in zip(st.columns(3), names, strict=False):
        with place, st.container(border=True, height="stretch", key=f"{CARD}-study-{name}"):
            card = STUDIES[name]
            with st.container(gap="xsmall"):
                st.markdown(f"**{card.title}**")
                shown_badge(card.shown)
            st.caption(card.lesson)
            if st.button(card.button, key=f"study-{name}"):
                library().add(entries[name].source)
                st.switch_page("pages/4_Compare.py")


@cache
def _picture(example: Path) -> str:
    """Return the SVG beside an example, which `make pictures` draws."""
    return example.with_suffix(".svg").read_text(encoding="utf-8")
