"""The guard around each part of a page: what fails on one run takes neither the page nor another run down."""

import warnings

import pytest

from tests.support.app_pages import EXAMPLES, opened, texts
from validation.judgement.guard import CaughtError

FILE = (EXAMPLES / "per-example.db", "per-example.db")
PLACES = [  # a page, what fails there, and words of another part of it
    ("app.py", "ui.layout.glance.placed", "Gradient norms over training"),
    ("app.py", "ui.sections.dynamics.norms_caption", "Not clear yet"),
    ("pages/1_Dynamics.py", "ui.sections.dynamics.mean_scores", "Dynamics"),
    ("pages/2_Verdict.py", "ui.sections.verdict.claim_evidence", "What to do next"),
    ("pages/3_Layers.py", "ui.sections.layers.cell_rows", "Which layers drive the verdict"),
    ("pages/5_Diagnostics.py", "ui.sections.diagnostics.finding_chart", "All checks"),
    ("pages/6_Runs.py", "ui.sections.runs.fact_text", "Schema"),
]


@pytest.mark.parametrize(("page", "place", "words"), PLACES, ids=[place for _, place, _ in PLACES])
def test_a_part_that_fails_leaves_the_other_parts_of_the_page(monkeypatch, page, place, words):
    def broken(*_, **__):
        raise IndexError("\x1b[31mno such row")

    monkeypatch.setattr(place, broken)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaughtError)
        at = opened(page, FILE)
    assert not at.exception
    assert words in texts(at)
    assert "This part of the page cannot be shown" in texts(at)
    assert any("IndexError: \ufffd[31mno such row" in text.value for text in at.text)


def test_tests_see_what_the_guard_of_a_page_caught(monkeypatch):
    monkeypatch.setattr("ui.sections.verdict.claim_evidence", lambda *_: 1 / 0)
    assert opened("pages/2_Verdict.py", FILE).exception
