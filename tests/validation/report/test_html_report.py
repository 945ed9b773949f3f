"""The HTML and Markdown reports: complete, standalone, safe, and readable in both themes."""

import json
import re
from html import unescape
from xml.etree import ElementTree as ET

import pytest

from tests.support.report_readers import (
    EXAMPLES,
    NOW,
    ROOT,
    as_text,
    judged,
    read,
    unquoted,
    validated,
)
from validation.charts.interval_bar import interval_bar
from validation.charts.theme import GREY
from validation.cli.main import main
from validation.judgement.baseline import compare
from validation.judgement.glance import glance_of
from validation.judgement.step import Origin
from validation.report import html_report
from validation.report.html_report import as_html, as_markdown
from validation.verdict.claims import Claim
from validation.verdict.words.statuses import ICONS
from validation.verdict.words.wording import estimated, parts_of, replication


def test_a_report_sets_every_claim_beside_the_baseline(pair, capsys, tmp_path, undrawn):
    before, after = map(str, pair)
    for name, words in (("a.html", lambda text: read(text).text), ("a.md", unquoted)):
        assert main(["report", after, "--baseline", before, "-o", str(tmp_path / name)]) == 0
        text = words((tmp_path / name).read_text())
        assert "that the baseline shows is lost" in text.replace("it shows", "the baseline shows")
        assert f"--baseline {before}" in text
        comparison = compare(judged(after), judged(before))
        assert all(change.because[1:] in text for change in comparison.all)  # a sentence has its capital
        assert comparison.baseline.files[0].sha256 in text
    assert main(["report", after, "--baseline", "absent.db", "-o", str(tmp_path / "a.json")]) == 2
    validated(json.loads((tmp_path / "a.json").read_text()))
    assert "absent.db" in capsys.readouterr().err


@pytest.fixture(scope="module")
def seeds_html(seeds):
    """The page of eighteen runs, one of them in full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html_report, "DETAILED", 1)
        return as_html(judged(*seeds), now=NOW, command="COMMAND")


def test_a_report_is_written_in_the_format_of_its_name(capsys, tmp_path, undrawn):
    example = str(EXAMPLES[0])
    for name, start in (("a.html", "<!doctype html>"), ("a.MD", "# Prismatic verdict"), ("a.json", "{")):
        assert main(["report", example, "-o", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().lstrip().startswith(start)
    validated(json.loads((tmp_path / "a.json").read_text()))
    assert main(["report", example, "-o", str(tmp_path / "a.pdf")]) == 2
    assert ".html, .md, .json" in capsys.readouterr().err
    assert main(["report", example, "-o", str(tmp_path / "no" / "a.md")]) == 2


def test_a_report_says_what_could_not_be_read(capsys, tmp_path):
    assert main(["report", "absent.db", str(EXAMPLES[0]), "-o", str(tmp_path / "a.md")]) == 2
    assert "absent.db" in capsys.readouterr().err
    assert "absent.db" in (tmp_path / "a.md").read_text()


def test_the_page_stands_alone(seeds_html):
    page = read(seeds_html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "form", "base"}
    attributes = [(name, value or "") for _, own in page.tags for name, value in own.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name in ("src", "href", "srcdoc")]
    assert not re.search(r"@import|url\((?!#)", seeds_html)
    policy = next(own["content"] for tag, own in page.tags if own.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_report_has_all_that_reproduces_it(seeds, seeds_html):
    judgement = judged(*seeds)
    for text in (read(seeds_html).text, as_markdown(judgement, now=NOW, command="COMMAND")):
        assert all(file.sha256 in text for file in judgement.files)
        assert "2026-01-02 00:00 UTC" in text
        assert "rules version 2" in text
        assert "COMMAND" in text
        assert all(word in text for word in ("duckdb", "numpy", "scipy", "Page's p", "0.05"))


def test_the_page_says_the_headline_first_and_the_units_of_every_number(kinds, undrawn):
    for name in ("study", "single", "unfinished", "two seeds", "one positive"):
        verdict = kinds[name].verdict
        for text in (read(as_html(kinds[name], now=NOW)).text, unquoted(as_markdown(kinds[name], now=NOW))):
            glance = glance_of(kinds[name])
            assert text.index(glance.headline) < text.index(glance.sentence[1:])
            assert all(note[1:] in text for note in glance.notes)
            for claim in verdict.headlines.values():
                assert not estimated(claim) or replication(claim) in text.lower()
                assert all(estimated(part) in text for part in parts_of(claim))


def test_controls_have_a_check_in_place_of_a_status(kinds, undrawn):
    for text in (read(as_html(kinds["positives"], now=NOW)).text, as_markdown(kinds["positives"], now=NOW)):
        assert "the A/A check passes" in text
        assert "the positive control is found" in text
    rows = re.findall(r"<tr>.*?</tr>", as_html(kinds["study"], now=NOW), re.DOTALL)
    for row in (row for row in rows if "<td>sham" in row):
        assert "badge" not in row


def test_charts_are_drawn_for_the_first_runs_and_for_doses(seeds_html):
    doses, outcome = 2, 1
    over_seeds, in_run = 1 + 3 + 4, 1 + 3  # one run with one control expert sustains nothing
    logged = 2 + 2  # the norms as logged and beyond routing, divergence, shares
    assert seeds_html.count('<svg xmlns="http://www.w3.org/2000/svg"') == doses + outcome + over_seeds + in_run + logged
    assert "17 more runs are in the table above" in read(seeds_html).text
    assert "hover" not in seeds_html.partition("</style>")[2]


def test_no_word_of_a_file_becomes_markup(hostile, undrawn):
    html, markdown = as_html(hostile, now=NOW), as_markdown(hostile, now=NOW)
    text = as_text(hostile) + as_text(hostile, verbose=True)
    assert "<script" not in html
    assert "alert(1)" in read(html).text
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", markdown, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[x|://|@all", prose)
    for words in (html, markdown, text):
        assert not set("\x00\x1b\ud800\u202e") & set(words)
        assert not any(line.startswith("# H") for line in words.splitlines())
        words.encode()


def test_advice_names_a_config_that_the_report_holds(tmp_path, undrawn):
    from prismatic.train.config import load_config

    judgement = judged(ROOT / "examples" / "as-is.db")
    html, run = as_html(judgement, now=NOW), judgement.runs[0]
    blocks = [unescape(block) for block in re.findall(r"<pre><code>(.*?)</code></pre>", html, re.DOTALL)]
    commands = [block for block in blocks if block.startswith("prismatic ")]
    assert {advice.command(Origin("examples/as-is.db")) for advice in judgement.advice} - {""} == {*commands}
    config = tmp_path / f"{run.id}.yml"
    config.write_text(blocks[-1])
    assert load_config(config) == load_config(ROOT / "examples" / "as-is.db")


def test_without_the_drawing_library_the_report_says_so(monkeypatch, seeds):
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    html = as_html(judged(*seeds[6:12]), now=NOW)
    assert "vl-convert-python" in html
    assert 'class="bar"' in html


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_every_word_of_the_page_has_enough_contrast_in_both_themes():
    template = (ROOT / "validation" / "report" / "templates" / "report.html").read_text()
    assert f'text[fill="{GREY}"]' in template  # enough for a line, not for a word
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", template, re.S)
    ][:2]
    assert len(themes) == 2
    for theme in themes:
        pairs = [(status, f"{status}-back") for status in ICONS]
        pairs += [(ink, back) for ink in ("ink", "quiet") for back in ("page", "panel")] + [("ink", "confounded-back")]
        assert all(contrast(theme[ink], theme[back]) >= 4.5 for ink, back in pairs)
        assert contrast(theme["band"], theme["panel"]) >= 2
        assert contrast(theme["mark"], theme["panel"]) >= 3


@pytest.mark.parametrize("low", [None, 0.0, 1e-300, 1.2])
@pytest.mark.parametrize("high", [None, 1e300, 1.6])
@pytest.mark.parametrize("name", ["awakening", "sustainment"])
def test_an_interval_is_drawn_inside_its_picture(low, high, name):
    claim = Claim(name, "supported", "", estimate=1.5, low=low, high=high, threshold=1.1, units=9)
    places = {}
    for part in ET.fromstring(interval_bar(claim)):
        style = dict(re.findall(r"([\w-]+):([^;]+)", part.get("style")))
        places[part.get("class")] = {
            side: float(style[side][:-1]) for side in ("left", "right", "width") if "%" in style.get(side, "")
        }
    assert all(0 <= place <= 100 for part in places.values() for place in part.values())
    drawn = places["interval"]
    assert drawn["left"] <= places["point"]["left"] <= drawn["left"] + drawn["width"] <= 100.1
    assert (drawn["left"] == 0) == (low != 1.2)
