"""The text of `prismatic check`: the headline, the deciding numbers, the table of claims, and --verbose."""

import io
import re
import sqlite3
from contextlib import closing

import pytest

from prismatic.terminal import print_out
from tests.support.report_readers import EXAMPLES, ROOT, as_text, judged
from tests.support.simulated_runs import simulated_run, study, write
from validation.cli.main import main
from validation.files.sources import read_sources
from validation.judgement.baseline import compare
from validation.judgement.glance import glance_of, step_of
from validation.judgement.judge import judge
from validation.report.text_report import GROUP_ROWS, render
from validation.verdict.words.wording import estimated, parts_of

HOSTILE = "\x1b[2J[bold red]SUPPORTED[/] :smile:\n# yes\u202e"


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


def read(*paths, changed=None):
    return judge(*read_sources(list(paths)), changed)


def in_colour(judgement, comparison=None, **how):
    """Return what `check` prints on a terminal, with and without its colours."""
    stream = Terminal()
    print_out(*render(judgement, comparison, **how), stream=stream)
    return stream.getvalue(), re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())


@pytest.fixture(scope="module")
def doses(tmp_path_factory):
    """Two seeds at each of 14 scales, of which one is a sham."""
    folder = tmp_path_factory.mktemp("doses")
    files = []
    for scale in range(GROUP_ROWS + 2):
        for run in study(2, scale=float(scale), awakening=1 + scale / 9, control=1, steps=60):
            name = f"{scale:02}{run.seed}abcdef"
            files.append(write(run, folder / f"{name}.db", run_hash=name))
    return judged(*files)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_first_screen_has_all_that_a_person_needs(example):
    judgement = judged(example)
    verdict, text = judgement.verdict, as_text(judgement)
    lines = text.splitlines()
    glance = glance_of(judgement)
    notes = f" ({'; '.join(glance.notes)})" if glance.notes else ""
    assert lines[:2] == [f"{glance.shown.word.upper()}: {glance.headline}{notes}", glance.sentence]
    assert len(lines) <= 25
    for row in glance.rows:
        (line,) = [line for line in lines if line.startswith(row.claim.name)]
        assert row.shown.word in line
        assert line.endswith(row.reason)
        assert estimated(row.claim, unit=False) in line
    assert glance.documented in text
    assert glance.premise in text
    assert re.search(r"^(error|warning|info): .*\n  seen:  ", text, re.MULTILINE)
    assert text.count("log after backward()") == (example.stem == "zero-norms")
    assert ("next: " in text) == bool(judgement.advice)
    assert ("premise: " in text) == bool(glance.premise)
    assert all(f"{name} {claim.status}" in text for name, claim in verdict.as_written.whole(None).items()) or (
        verdict.as_written.status == "invalid"
    )


def test_numbers_name_their_units(kinds):
    assert "estimate over 6 seeds" in as_text(kinds["study"])
    assert "; the whole interval lies beyond the threshold of 1.10x." in as_text(kinds["study"]).splitlines()[1]
    assert "estimate in this run" in as_text(kinds["single"])
    assert "; the whole interval lies beyond the threshold of" in as_text(kinds["single"]).splitlines()[1]
    assert "estimate" not in as_text(kinds["doses"]).splitlines()[3]  # over several experiments there is none


def test_controls_show_their_check_and_estimates_without_a_status(kinds):
    (sham,) = [line for line in as_text(kinds["study"]).splitlines() if line.startswith("perturbation_scale=0.0")]
    assert re.fullmatch(r"perturbation_scale=0\.0 +6 sham runs +\d\.\d\dx +\d\.\d\dx +A/A passes", sham)
    (positive,) = [line for line in as_text(kinds["positives"]).splitlines() if "positive_control=1.5" in line]
    assert re.search(r" 6 positive controls +1\.\d\dx .* effect found$", positive)


def test_runs_without_a_verdict_are_counted(seeds, tmp_path):
    broken = tmp_path / "broken.db"
    broken.write_bytes(seeds[6].read_bytes())
    with closing(sqlite3.connect(broken)) as db, db:
        norms = [f"expert_{e}_{tier}_norm = 0" for e in range(3) for tier in ("top", "bottom", "middle")]
        db.execute(f"UPDATE dynamics SET {', '.join(norms)}")
    lines = as_text(read(broken, *seeds[7:])).splitlines()
    rows = [line for line in lines if line.startswith("perturbation_scale=")]
    assert [re.search(r"\d of \d runs|\d runs", row)[0] for row in rows] == ["5 of 6 runs", "6 runs"]
    assert not [line for line in lines if line.startswith("experiment") and "check" in line]


def test_what_a_reader_must_know_stands_in_the_headline(kinds, seeds):
    def first(judgement):
        return as_text(judgement).splitlines()[0]

    assert first(kinds["unfinished"]).endswith(
        "(provisional: the training is not finished; 4 of its 6 parts are judged so far)"
    )
    assert first(kinds["one positive"]).startswith("SELF-TEST ")
    assert "(" not in first(kinds["study"])
    lax = read(*seeds[6:12], changed={"awakening_ratio": 1.05, "alpha": 0.1, "min_seeds": 5})
    told = "judged with awakening_ratio 1.05 instead of 1.10, alpha 0.10 instead of 0.05, min_seeds 5 instead of 6"
    assert first(lax).endswith(f"({told})")


def test_a_terminal_shows_the_same_words_in_colour():
    judgement = judged(ROOT / "examples" / "as-is.db")
    coloured, seen = in_colour(judgement)
    assert "\x1b[1;33mconfounded" in coloured
    assert sorted(seen.split()) == sorted(as_text(judgement).split())


@pytest.mark.parametrize("width", [80, 120])
def test_no_estimate_is_broken_or_cut_on_a_terminal(kinds, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    _, seen = in_colour(kinds["study"])
    assert all(len(line) <= width for line in seen.splitlines())
    assert all(estimated(claim, unit=False) in seen for claim in kinds["study"].verdict.headlines.values())


def test_verbose_has_every_full_reason_finding_check_and_component(kinds):
    for judgement in (kinds["doses"], kinds["positives"], kinds["single"]):
        text, verdict = as_text(judgement, verbose=True), judgement.verdict
        claims = [claim for claim in verdict.controlled.claims if claim.expert is None]
        claims += [claim for group in verdict.groups for claim in group.claims]
        assert all(claim.because in text for claim in claims)
        assert all(estimated(part) in text for claim in claims for part in parts_of(claim))
        assert all(group.premise.because in text for group in verdict.groups)
        assert all(finding.cause in text for finding in judgement.findings)
        assert all(step_of(advice, judgement).text in text for advice in judgement.advice)
        assert all(each.because in text for each in judgement.registrations)
        assert all(claim.because in text for claim in verdict.as_written.of(None))
    assert "the A/A check passes" in as_text(kinds["positives"], verbose=True)
    assert "the positive control is found" in as_text(kinds["positives"], verbose=True)
    single = as_text(kinds["single"], verbose=True)
    assert single.count(kinds["single"].verdict.headlines["sustainment"].because) == 1


def test_brief_leaves_out_single_runs_where_there_are_several(doses):
    text = as_text(doses, verbose=True)
    assert f"run {doses.runs[0].id} " in text
    assert f"run {doses.runs[0].id} " not in as_text(doses, verbose=True, brief=True)
    assert as_text(doses, brief=True) == as_text(doses)


def test_more_experiments_than_rows_are_counted(doses):
    text = as_text(doses)
    assert "and 2 more experiments (--verbose)" in text
    assert ", with 2 sham runs as their controls." in text
    assert "the dose-response" in text.splitlines()[-1]
    assert len([line for line in text.splitlines() if line.startswith("perturbation_scale=")]) == GROUP_ROWS


def test_names_of_a_file_are_no_markup_and_no_line(tmp_path):
    files = []
    for number, scale in enumerate((1.0, 0.0)):
        facts = {"config.merge": HOSTILE, "exit_state": HOSTILE, "config.perturbation_scale": scale}
        files.append(write(simulated_run(seed=number, steps=150), tmp_path / f"{number}.db", **facts))
    judgement = read(*((file, HOSTILE) for file in files))
    _, text = in_colour(judgement, compare(judgement, judgement), verbose=True)
    assert "[bold red]SUPPORTED[/] :smile:" in text
    assert not set("\x1b\u202e") & set(text)
    assert not any(line.startswith(("# yes", "SUPPORTED")) for line in text.splitlines())


def test_a_registration_that_differs_is_on_the_first_screen(tmp_path):
    file = write(simulated_run(), tmp_path / "x.db", **{"registered.alpha": 0.01, "registered.rules": 2})
    assert "thresholds: " not in as_text(read(file))  # without a hash, nothing is registered
    file = write(
        simulated_run(), tmp_path / "y.db", **{"registered.rules": 2, "registered.sha256": "", "registered.alpha": 0.01}
    )
    assert "thresholds: the registered thresholds do not match their hash" in as_text(read(file))


def test_a_missing_file_is_named_as_it_was_given(capsys):
    assert main(["check", "/absent/dynamics.db"]) == 2
    text = capsys.readouterr().out
    assert text.startswith("INVALID: No run could be judged")
    assert "expected a file, found nothing there" in text
