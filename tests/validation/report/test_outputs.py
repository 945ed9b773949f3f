"""Every way to show a verdict says the same: text, JSON, JUnit XML, Markdown, HTML and the page."""

import copy
import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from streamlit.testing.v1 import AppTest

from tests.support.simulated_runs import simulated_run, write
from ui.layout.cards import number
from ui.session.library import Library, Source
from validation.charts.interval_bar import interval_bar
from validation.charts.theme import GREY
from validation.cli.main import main
from validation.files.sources import read_sources
from validation.judgement.baseline import compare
from validation.judgement.judge import Judgement, judge
from validation.report import figures
from validation.report import html_report as document
from validation.report.exit_code import exit_code
from validation.report.html_report import SYMBOLS, as_html, as_markdown
from validation.report.json_report import as_json
from validation.report.junit_report import as_junit
from validation.report.text_report import as_text
from validation.verdict.claims import Claim
from validation.verdict.wording import digits, estimated, threshold

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.db"))
NOW = datetime(2026, 1, 2, tzinfo=UTC)
SCHEMA = json.loads((ROOT / "docs" / "check.schema.json").read_text())
HOSTILE = "</script><script>alert(1)</script> ![x](http://example.invalid) ]]> `|` @all \ud800\x00\x1b[2J\u202e\n# H"


@cache
def judged(*paths: Path) -> Judgement:
    return judge(*read_sources(list(paths)))


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without charts, where a test is about something else: each takes a third of a second."""
    monkeypatch.setattr(figures, "can_draw", lambda: False)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Nine runs: three seeds at three scales, of which one is a sham."""
    folder = tmp_path_factory.mktemp("seeds")
    files = []
    for scale in (0.0, 1.0, 2.0):
        for seed in range(3):
            run = simulated_run(
                seed=seed + int(100 * scale), awakening=1 + scale / 2, divergence=scale / 2, control=True, steps=200
            )
            about = {"config.seed": seed, "config.perturbation_scale": scale, "run_hash": f"{int(scale)}{seed}abcdef0"}
            files.append(write(run, folder / f"{scale}-{seed}.db", **about))
    return tuple(files)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose every word tries to be something else, beside a sham that makes its options a group's name."""
    folder = tmp_path_factory.mktemp("hostile")
    files = []
    for number_, scale in enumerate((1.0, 0.0)):
        file = write(simulated_run(seed=number_, steps=150), folder / f"{number_}.db", **{"config.seed": number_})
        with closing(sqlite3.connect(file)) as db, db:
            facts = {"config.merge": HOSTILE + str(scale), "exit_state": HOSTILE, "torch": HOSTILE, "host": HOSTILE}
            facts |= {"config.perturbation_scale": scale, "planned_steps": 9e9, "config.huge": float("1e308") * 10}
            rows = [(key, json.dumps(value)) for key, value in facts.items()]
            db.executemany("INSERT OR REPLACE INTO run VALUES (?, ?)", rows)
        files.append((file, HOSTILE))
    return judge(*read_sources(files))


def closed(schema):
    """The same schema where what it does not name is an error: nothing goes undocumented."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        strict["additionalProperties"] = False
    return strict


def validated(report):
    text = json.dumps(report, allow_nan=False)
    jsonschema.validate(json.loads(text), SCHEMA)
    jsonschema.validate(json.loads(text), closed(copy.deepcopy(SCHEMA)))


def as_claim(values):
    """A claim of the JSON as our own object."""
    return Claim(name=values["claim"], **{key: value for key, value in values.items() if key != "claim"})


def claims_of(judgement):
    return [c for r in (judgement.verdict.controlled, judgement.verdict.as_written) for c in r.claims]


# The same numbers


class Words(HTMLParser):
    """What a person reads of a page, as one text."""

    def __init__(self):
        super().__init__()
        self.text = ""
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def read(html):
    words = Words()
    words.feed(html)
    return words


def unquoted(markdown):
    return re.sub(r"\\(.)", r"\1", markdown).replace("\u2060", "")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_output_shows_the_same_numbers_and_statuses(example, undrawn):
    judgement = judged(example)
    report = as_json(judgement)
    told = {
        "text": as_text(judgement, verbose=True),
        "html": read(as_html(judgement, now=NOW)).text,
        "markdown": unquoted(as_markdown(judgement, now=NOW)),
        "junit": as_junit(judgement),
    }
    for name, text in told.items():
        head = text if name == "junit" else text[: text.lower().index(report["status"]) + 20]
        assert report["status"] in head.lower(), name
    of_runs = [as_claim(claim) for claim in report["controlled"]["claims"] if claim["expert"] is None]
    for claim in of_runs:
        for name, text in told.items():
            assert claim.status in text, name
            assert estimated(claim) in text, name
    for claim in (as_claim(one) for reading in ("controlled", "as_written") for one in report[reading]["claims"]):
        assert estimated(claim) in told["html"]
        assert estimated(claim) in told["markdown"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_page_shows_the_numbers_of_the_json(example):
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=30)
    at.session_state["library"] = Library([Source(example, example.stem)])
    at.run()
    at.session_state["see-claims"] = True
    at.switch_page("pages/2_Verdict.py").run()
    table = next(shown.value for shown in at.dataframe if "estimate" in shown.value)
    page = [tuple(row) for row in table[["claim", "status", "estimate", "low", "high"]].to_numpy()]
    claims = [as_claim(c) for r in ("controlled", "as_written") for c in as_json(judged(example))[r]["claims"]]
    assert page == [(c.name, c.status, *(_on_page(v, c) for v in (c.estimate, c.low, c.high))) for c in claims]
    for claim in claims:
        for value in (claim.estimate, claim.low, claim.high):
            assert value is None or digits(value, claim) in number(value, claim)


def _on_page(value, claim):
    return "" if value is None else number(value, claim)


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (Claim("awakening", "", "", estimate=1.5, low=1.474, high=1.53, points=9), "1.50x [1.47, 1.53]"),
        (Claim("awakening", "", "", estimate=1.5, points=9), "1.50x [-∞, ∞]"),
        (Claim("awakening", "", "", estimate=0.84), "0.84x"),
        (Claim("awakening", "", ""), ""),
        (Claim("sustainment", "", "", estimate=0.98, low=0.9, high=None, points=9), "98% [90%, ∞] kept"),
        (
            Claim("divergence", "", "", estimate=0.12345, low=0.1, high=0.2, points=9, unit="1 - cosine"),
            "0.123 [0.1, 0.2] (1 - cosine)",
        ),
    ],
)
def test_an_estimate_is_written_in_one_way(claim, words):
    assert estimated(claim) == words


def test_a_threshold_has_the_unit_of_its_estimate():
    assert threshold(Claim("awakening", "", "", threshold=1.1)) == "1.10x"
    assert threshold(Claim("sustainment", "", "", threshold=0.5)) == "50% kept"


# JSON


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_object_is_as_the_schema_says(example):
    validated(as_json(judged(example)))


def test_the_schema_holds_for_many_runs_groups_and_doses(seeds):
    report = as_json(judged(*seeds), compare(judged(*seeds), judged(*seeds[3:6])))
    validated(report)
    assert len(report["groups"]) == 3
    assert report["groups"][0]["role"] == "sham"
    assert [dose["claim"] for dose in report["dose"]] == ["awakening", "divergence"]
    assert report["versions"].keys() == {"prismatic", "python", "duckdb", "numpy", "scipy"}
    assert {run["registered"]["status"] for run in report["runs"]} == {"not_registered"}


@pytest.mark.parametrize(
    "arguments", [["absent.db"], ["absent.db", "--set", "alpha=x"], ["absent.db", "--limit", "x=1"]]
)
def test_the_schema_holds_when_nothing_could_be_read(capsys, arguments):
    assert main(["check", "--json", *arguments]) == 2
    validated(json.loads(capsys.readouterr().out))


def test_the_schema_holds_whatever_a_file_says(hostile):
    validated(as_json(hostile))


def test_thresholds_changed_after_the_fact_are_named(tmp_path, undrawn):
    from prismatic.contract.thresholds import Thresholds

    file = write(simulated_run(), tmp_path / "x.db", **Thresholds().registration())
    changed = judge(*read_sources([file]), {"awakening_ratio": 1.3})
    told = as_json(changed)["runs"][0]["registered"]
    assert (told["status"], told["differences"]) == ("changed", {"awakening_ratio": {"registered": 1.1, "used": 1.3}})
    words = "changed after the fact, from 1.1 to 1.3"
    assert words in read(as_html(changed, now=NOW)).text
    assert words in as_markdown(changed, now=NOW)
    assert "as registered" in as_markdown(judge(*read_sources([file])), now=NOW)


# JUnit


def suites(text):
    """By suite, its element; after its counts were compared with what it holds."""
    root = ET.fromstring(text)
    for suite in root:
        assert int(suite.get("tests")) == len(suite.findall("testcase"))
        for outcome, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert int(suite.get(attribute)) == len(suite.findall(f"testcase/{outcome}"))
    for attribute in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(attribute)) == sum(int(suite.get(attribute)) for suite in root)
    return {suite.get("name"): suite for suite in root}


def outcomes(suite):
    return {case.get("name"): [one.tag for one in case if one.tag != "system-out"] for case in suite}


@pytest.mark.parametrize(
    ("run", "outcome", "strictly"),
    [
        ({"awakening": 1.5, "divergence": 0.5, "control": True}, [], []),
        ({"routing_ratio": 1.0, "scale": 0.01, "control": True}, ["failure"], ["failure"]),
        ({"collinear": True, "routing_ratio": 2.3}, ["skipped"], ["failure"]),
    ],
)
def test_a_status_is_an_outcome(tmp_path, run, outcome, strictly):
    judgement = judged(write(simulated_run(**run), tmp_path / "dynamics.db"))
    for strict, expected in ((False, outcome), (True, strictly)):
        (suite,) = suites(as_junit(judgement, strict=strict)).values()
        assert outcomes(suite)["awakening"] == expected
        assert "awakening, expert 1" in outcomes(suite)


def test_invalid_data_and_unreadable_files_are_errors(tmp_path):
    (tmp_path / "notes.db").write_text("no database")
    judgement = judge(*read_sources([tmp_path / "notes.db", ROOT / "examples" / "zero-norms.db"]))
    files, run = suites(as_junit(judgement)).values()
    assert outcomes(files) == {"not_a_run": ["error"]}
    assert outcomes(run)["awakening"] == outcomes(run)["zero_norms"] == ["error"]


def test_there_is_a_suite_per_run_per_group_and_for_all(seeds):
    names = list(suites(as_junit(judged(*seeds))))
    assert sum(name.startswith("run ") for name in names) == 9
    assert next(name for name in names if name.startswith("group ")) == "group perturbation_scale=0.0"
    assert names[-1] == "all runs"


def test_a_sham_run_beside_others_fails_nothing_by_being_refuted(seeds):
    report = suites(as_junit(judged(*seeds), strict=True))
    assert outcomes(report["group perturbation_scale=0.0"])["awakening"] == ["skipped"]
    assert outcomes(report["group perturbation_scale=2.0"])["awakening"] == []
    assert "for the other runs" not in as_junit(judged(*seeds[:3]))


def test_no_word_of_a_file_breaks_the_xml(hostile):
    text = as_junit(hostile)
    assert suites(text)
    text.encode()
    assert not set("\x00\x1b\ud800") & set(text)


# Strict, and the baseline


def test_strict_takes_no_yes_beside_a_warning(capsys):
    positive = str(ROOT / "examples" / "positive-control.db")
    assert main(["check", positive]) == 0
    assert main(["check", positive, "--strict"]) == 3
    assert "positive_control" in capsys.readouterr().err
    assert exit_code(judged(ROOT / "examples" / "zero-norms.db"), strict=True) == 4


def test_strict_takes_a_yes_with_nothing_beside_it(tmp_path):
    good = write(simulated_run(awakening=1.5, divergence=0.5, control=True), tmp_path / "dynamics.db")
    assert exit_code(judged(good), strict=True) == 0


@pytest.fixture
def pair(tmp_path):
    """A run that supports all three claims, and the same experiment where awakening is gone."""
    before = write(simulated_run(awakening=1.5, divergence=0.5, control=True), tmp_path / "before.db")
    after = write(simulated_run(divergence=0.5, control=True, seed=1), tmp_path / "after.db")
    return before, after


def test_a_lost_claim_is_told_everywhere_and_exits_with_1(capsys, tmp_path, pair):
    before, after = map(str, pair)
    junit = tmp_path / "junit.xml"
    assert main(["check", after, "--baseline", before, "--json", "--junit", str(junit)]) == 1
    report = json.loads(capsys.readouterr().out)
    validated(report)
    (lost,) = [c for c in report["baseline"]["changes"] if c["claim"] == "awakening" and c["expert"] is None]
    assert (lost["before"]["status"], lost["after"]["status"], lost["worsened"]) == ("supported", "confounded", True)
    assert lost["overlap"] is False
    assert lost["difference"] == pytest.approx(lost["after"]["estimate"] - lost["before"]["estimate"])
    suite = suites(junit.read_text())["baseline"]
    run = report["runs"][0]["run"]
    failed = [name for name, outcome in outcomes(suite).items() if outcome == ["failure"]]
    assert failed == [f"run {run}: awakening, expert 1", f"run {run}: awakening"]
    main(["check", after, "--baseline", before])
    assert "supported -> confounded" in capsys.readouterr().out


def test_a_run_is_no_worse_than_itself(capsys, pair):
    before, after = map(str, pair)
    assert main(["check", before, "--baseline", before]) == 0
    assert "no claim that the baseline supports is lost" in capsys.readouterr().out
    assert main(["check", before, "--baseline", before, "--verbose"]) == 0
    assert "still supported" in capsys.readouterr().out
    assert main(["check", before, "--baseline", after]) == 0  # better is no failure


def test_the_verdicts_own_exit_code_stays_beside_a_baseline(pair):
    _, after = pair
    comparison = compare(judged(after), judged(after))
    assert not comparison.worsened
    assert exit_code(judged(after), comparison=comparison) == exit_code(judged(after)) == 3


def test_a_baseline_that_cannot_be_read_exits_with_2(capsys, pair):
    assert main(["check", str(pair[0]), "--baseline", "absent.db", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "supported"
    assert report["baseline"]["diagnostics"]


def test_the_baseline_is_judged_by_the_same_thresholds(capsys, pair):
    before, _ = map(str, pair)
    assert main(["check", before, "--baseline", before, "--set", "awakening_ratio=2.0", "--json"]) == 3
    assert not json.loads(capsys.readouterr().out)["baseline"]["worsened"]


def test_runs_are_compared_by_id_and_groups_by_name(seeds):
    comparison = compare(judged(*seeds), judged(*seeds[3:]))
    places = {change.where for change in comparison.changes}
    assert {"all runs", "run 10abcdef0", "perturbation_scale=1.0", "perturbation_scale=2.0"} <= places
    assert comparison.unmatched == tuple(f"run 0{seed}abcdef0 is not in the baseline" for seed in range(3))
    assert not comparison.worsened


# The report


def test_a_report_sets_every_claim_beside_the_baseline(pair, capsys, tmp_path, undrawn):
    before, after = map(str, pair)
    for name, words in (("a.html", lambda text: read(text).text), ("a.md", unquoted)):
        assert main(["report", after, "--baseline", before, "-o", str(tmp_path / name)]) == 0
        text = words((tmp_path / name).read_text())
        assert "A claim that" in text
        assert f"--baseline {before}" in text
        comparison = compare(judged(after), judged(before))
        assert all(change.because[1:] in text for change in comparison.changes)  # a sentence has its capital
        assert comparison.baseline.files[0].sha256 in text
    assert main(["report", after, "--baseline", "absent.db", "-o", str(tmp_path / "a.json")]) == 2
    validated(json.loads((tmp_path / "a.json").read_text()))
    assert "absent.db" in capsys.readouterr().err


@pytest.fixture(scope="module")
def seeds_html(seeds):
    """The page of nine runs, the first of them in full."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document, "DETAILED", 1)
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
        assert "rules version 1" in text
        assert "COMMAND" in text
        assert all(word in text for word in ("duckdb", "numpy", "scipy", "Page's p", "0.05"))


def test_charts_are_drawn_for_the_first_runs_and_for_doses(seeds_html):
    assert (
        seeds_html.count('<svg xmlns="http://www.w3.org/2000/svg"') == 2 + 2 + 3
    )  # doses, claims that have an estimate, what was logged
    assert "8 more runs are in the table above" in read(seeds_html).text
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
    lines = [block for block in blocks if block.startswith(f"prismatic train --config {run.id}.yml --set ")]
    assert len(lines) == sum(bool(advice.options) for advice in judgement.advice) > 0
    config = tmp_path / f"{run.id}.yml"
    config.write_text(blocks[-1])
    for line in lines:
        assert load_config(config, line.partition("--set ")[2].split()).sequence_length == 96


def test_without_the_drawing_library_the_report_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    html = as_html(judged(ROOT / "examples" / "as-is.db"), now=NOW)
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
        pairs = [(status, f"{status}-back") for status in SYMBOLS]
        pairs += [(ink, back) for ink in ("ink", "quiet") for back in ("page", "panel")] + [("ink", "confounded-back")]
        assert all(contrast(theme[ink], theme[back]) >= 4.5 for ink, back in pairs)
        assert contrast(theme["band"], theme["panel"]) >= 2
        assert contrast(theme["mark"], theme["panel"]) >= 3


@pytest.mark.parametrize("low", [None, 0.0, 1e-300, 1.2])
@pytest.mark.parametrize("high", [None, 1e300, 1.6])
@pytest.mark.parametrize("name", ["awakening", "sustainment"])
def test_an_interval_is_drawn_inside_its_picture(low, high, name):
    claim = Claim(name, "supported", "", estimate=1.5, low=low, high=high, threshold=1.1, points=9)
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
