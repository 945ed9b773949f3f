"""Text, JSON, JUnit XML, Markdown, HTML and the page show the same numbers and statuses."""

from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from tests.support.report_readers import (
    EXAMPLES,
    NOW,
    ROOT,
    as_claim,
    as_text,
    judged,
    read,
    suites,
    unquoted,
    validated,
)
from ui.session.library import Library, Source
from validation.report.html_report import as_html, as_markdown
from validation.report.json_report import as_json
from validation.report.junit_report import as_junit
from validation.text import spaced
from validation.verdict.claims import Claim
from validation.verdict.words.wording import estimated, needed, parts_of, threshold


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_output_shows_the_same_numbers_and_statuses(example, undrawn):
    judgement = judged(example)
    report = as_json(judgement)
    outputs = {
        "text": as_text(judgement, verbose=True),
        "html": read(as_html(judgement, now=NOW)).text,
        "markdown": unquoted(as_markdown(judgement, now=NOW)),
        "junit": as_junit(judgement),
    }
    for name, text in outputs.items():
        head = text if name == "junit" else text[: text.lower().index(report["status"]) + 20]
        assert report["status"] in head.lower(), name
    of_runs = [as_claim(claim) for claim in report["controlled"]["claims"] if claim["expert"] is None]
    for claim in of_runs:
        for name, text in outputs.items():
            assert claim.status in text, name
            assert estimated(claim) in text, name
    for claim in (as_claim(one) for reading in ("controlled", "as_written") for one in report[reading]["claims"]):
        assert estimated(claim) in outputs["html"]
        assert estimated(claim) in outputs["markdown"]


def test_every_output_shows_how_the_runs_end_against_their_twins(seeds, undrawn):
    judgement = judged(*seeds)
    (first, words), (second, other) = [(name, found.because) for name, found in judgement.verdict.outcomes]
    assert (
        words == "in held-out loss the perturbed runs end 0.015 nats below their twins [-0.021, -0.009], over 6 seeds"
    )
    text = as_text(judgement)
    assert f"outcome: {first}: {words}\noutcome: {second}: {other}\n" in text
    assert f"outcome: {words}\n" in as_text(judged(*seeds[:12]))
    assert words in as_text(judgement, verbose=True)
    assert f"{first}. I{words[1:]}." in read(as_html(judgement, now=NOW)).text
    assert f"Outcome of {first}: {words}." in unquoted(as_markdown(judgement, now=NOW))
    suite = suites(as_junit(judgement, strict=True))[f"group {first}"]
    assert suite.find("testcase[@name='outcome']/system-out").text == words
    report = as_json(judgement)
    validated(report)
    found = [group["outcome"] for group in report["groups"]]
    assert (found[0]["because"], found[2]) == (words, None)
    assert found[0]["estimate"] == pytest.approx(-0.015)
    assert found[0]["pairs"][1] == {
        "seed": 1,
        "run": "11abcdef0",
        "twin": "01abcdef0",
        "of_run": pytest.approx(2.38),
        "of_twin": pytest.approx(2.4),
        "difference": pytest.approx(-0.02),
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_page_shows_the_numbers_of_the_json(example):
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    at.session_state["library"] = Library([Source(example, example.stem)])
    at.run()
    at.session_state["see-claims"] = True
    at.switch_page("pages/2_Verdict.py").run()
    table = next(shown.value for shown in at.dataframe if "estimate" in shown.value)
    page = [tuple(row) for row in table[["claim", "status", "estimate", "threshold"]].to_numpy()]
    report = as_json(judged(example))
    claims = [as_claim(c) for r in ("controlled", "as_written") for c in report[r]["claims"] if c["run"] is not None]
    shown = [part for claim in claims for part in (claim, *parts_of(claim))]
    assert page == [(spaced(part.name), part.status, estimated(part), threshold(part)) for part in shown]


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (Claim("awakening", "", "", estimate=1.5, low=1.474, high=1.53, units=9), "1.50x [1.47, 1.53]"),
        (Claim("awakening", "", "", estimate=1.5, units=9), "1.50x [-∞, ∞]"),
        (Claim("awakening", "", "", estimate=1.5, units=1), "1.50x"),
        (Claim("awakening", "", "", estimate=0.84), "0.84x"),
        (Claim("awakening", "", ""), ""),
        (Claim("sustainment", "", "", estimate=0.98, low=0.9, units=9, unit="kept"), "98% [90%, ∞] kept"),
        (
            Claim("divergence", "", "", estimate=0.12345, low=0.1, high=0.2, units=9, unit="1 - cosine"),
            "+0.123 [+0.100, +0.200]",
        ),
    ],
)
def test_an_estimate_is_written_in_one_way(claim, words):
    assert estimated(claim) == words


def test_an_end_that_looks_like_its_threshold_gets_a_third_decimal():
    claim = Claim("awakening", "", "", estimate=1.02, low=0.94, high=1.097, threshold=1.1, units=9)
    assert estimated(claim) == "1.02x [0.94, 1.097]"


def test_what_is_needed_names_both_sides_of_a_size():
    size = Claim("divergence", "", "", effect="size", estimate=1.0, threshold=1.1)
    assert needed(size) == needed(replace(size, threshold=1 / 1.1)) == "below 0.91x or above 1.10x"
    assert needed(Claim("awakening", "", "", effect="bottom", estimate=1.0, threshold=1.1)) == "more than 1.10x"
    assert (
        needed(Claim("divergence", "", "", effect="direction", unit="1 - cosine", threshold=0.05)) == "more than +0.05"
    )


def test_a_threshold_has_the_unit_of_its_estimate():
    assert threshold(Claim("awakening", "", "", threshold=1.1)) == "1.10x"
    assert threshold(Claim("sustainment", "", "", threshold=0.5, unit="kept")) == "50% kept"
    assert threshold(Claim("divergence", "", "", threshold=0.05, unit="1 - cosine")) == "+0.05"
