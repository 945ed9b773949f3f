"""The text of `prismatic check`: the headline, the table of claims, short reasons, and --verbose."""

import io
import re
from pathlib import Path

import pytest

from prismatic.terminal import print_out
from tests.support.report_readers import as_text
from tests.support.simulated_runs import simulated_run, write
from validation.cli.main import main
from validation.files.sources import read_sources
from validation.judgement.baseline import compare
from validation.judgement.judge import judge
from validation.report.short_reasons import MOST_WORDS, headline, headline_claims, short_reason
from validation.report.text_report import GROUP_ROWS, render
from validation.verdict.wording import estimated

EXAMPLES = Path(__file__).parents[3] / "examples"
HOSTILE = "\x1b[2J[bold red]SUPPORTED[/] :smile:\n# yes\u202e"


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


def judged(*paths, changed=None):
    return judge(*read_sources(list(paths)), changed)


def written(folder, *runs, **facts):
    """Run files of simulated runs with a seed each, as one judgement."""
    files = []
    for seed, run in enumerate(runs):
        about = {"config.seed": seed, "run_hash": f"{seed}abcdef00", **facts}
        files.append(write(run, folder / f"{seed}.db", **about))
    return judged(*files)


def reasons(judgement):
    return {name: short_reason(claim, judgement) for name, claim in headline_claims(judgement).items()}


@pytest.fixture(scope="module")
def doses(tmp_path_factory):
    """Two seeds at each of 14 scales, of which one is a sham."""
    folder = tmp_path_factory.mktemp("doses")
    files = []
    for scale in range(GROUP_ROWS + 2):
        for seed in range(2):
            run = simulated_run(seed=seed + 10 * scale, awakening=1 + scale / 9, control=True, steps=150)
            about = {"config.seed": seed, "config.perturbation_scale": scale, "run_hash": f"{scale:02}{seed}abcdef"}
            files.append(write(run, folder / f"{scale:02}-{seed}.db", **about))
    return judged(*files)


RUNS = {
    "bottom weights receive": {"awakening": 1.5, "divergence": 0.5, "control": True},
    "gained no more than the middle tier": {"routing_ratio": 1.0, "scale": 0.01, "control": True},
    "the gain beyond the middle tier is too small": {"divergence": 0.5, "control": True, "seed": 1},
    "differ by less than the threshold": {"routing_ratio": 1.0, "scale": 0.01, "control": True},
    "compared to the control expert": {"awakening": 1.5, "divergence": 0.5, "control": True},
    "no control shows": {"awakening": 1.5, "divergence": 0.5},
    "not judged, because divergence is": {"awakening": 1.5},
    "the last third keeps": {"awakening": 1.5, "divergence": 0.5, "control": True},
    "gradients are parallel": {"collinear": True, "routing_ratio": 2.3},
    "more are needed": {"steps": 60},
}


@pytest.mark.parametrize("words", RUNS)
def test_a_reason_says_what_decided_in_few_words(tmp_path, words):
    judgement = written(tmp_path, simulated_run(**RUNS[words]))
    assert any(words in reason for reason in reasons(judgement).values())
    assert all(len(reason.split()) <= MOST_WORDS for reason in reasons(judgement).values())


@pytest.mark.parametrize("count", [2, 3])
def test_reasons_over_seeds_count_the_runs(tmp_path, count):
    runs = [simulated_run(seed=s, awakening=1.5, divergence=0.5, control=True, steps=200) for s in range(count)]
    found = reasons(written(tmp_path, *runs))
    expected = "2 runs with an estimate; 1 more seed needed" if count == 2 else "compared to the control expert"
    assert expected in found["divergence"]


def test_one_seed_twice_is_named(tmp_path):
    judgement = written(tmp_path, *(simulated_run(seed=s, control=True) for s in range(3)), **{"config.seed": 7})
    assert reasons(judgement)["awakening"] == "the runs need a seed each, known and different"


def test_shared_gradients_are_named_where_parameters_are_merged(tmp_path):
    facts = {"config.router_type": "prismatic", "config.merge": "batch"}
    judgement = written(tmp_path, simulated_run(collinear=True, routing_ratio=2.3), **facts)
    assert "scaled by their routing shares" in reasons(judgement)["awakening"]


def test_a_sham_run_is_not_the_cause(tmp_path):
    facts = {"config.perturbation_scale": 0.0}
    judgement = written(tmp_path, simulated_run(awakening=1.5, divergence=0.5, control=True), **facts)
    assert "nothing was perturbed" in reasons(judgement)["awakening"]


@pytest.mark.parametrize("name", ["as-is", "positive-control", "zero-norms"])
def test_the_first_screen_has_all_that_a_person_needs(name):
    judgement = judged(EXAMPLES / f"{name}.db")
    text = as_text(judgement)
    lines = text.splitlines()
    assert lines[0].startswith(f"{judgement.verdict.status.upper()}: {headline(judgement)}")
    assert len(lines) <= 18
    for claim in headline_claims(judgement).values():
        (row,) = [line for line in lines if line.startswith(claim.name)]
        assert claim.status in row
        assert short_reason(claim, judgement) in row
        assert all(number in row for number in estimated(claim).replace(" kept", "").split(" ", 1))
    assert re.search(r"^(error|warning|info): .*\n  seen:  ", text, re.MULTILINE)
    assert text.count("log after backward()") == (name == "zero-norms")
    assert ("next: " in text) == bool(judgement.advice)
    assert ("premise: " in text) == bool(judgement.verdict.premises)
    assert judgement.verdict.as_written.status in lines[-1]


def test_a_terminal_shows_the_same_words_in_colour():
    judgement, stream = judged(EXAMPLES / "as-is.db"), Terminal()
    print_out(*render(judgement), stream=stream)
    assert "\x1b[1;33mconfounded" in stream.getvalue()
    seen = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert sorted(seen.split()) == sorted(as_text(judgement).split())


def test_verbose_has_every_full_reason_and_finding(doses):
    text = as_text(doses, verbose=True)
    claims = [claim for claim in doses.verdict.controlled.claims if claim.expert is None]
    assert all(claim.because in text for claim in claims)
    assert all(finding.cause in text for finding in doses.findings)
    assert all(advice.text in text for advice in doses.advice)
    assert f"run {doses.runs[0].id} " in text
    assert f"run {doses.runs[0].id} " not in as_text(doses, verbose=True, brief=True)
    assert as_text(doses, brief=True) == as_text(doses)


def test_more_experiments_than_rows_are_counted(doses):
    text = as_text(doses)
    assert "and 2 more experiments (--verbose)" in text
    assert "2 sham runs" in text
    assert "the dose-response" in text.splitlines()[-1]
    assert len([line for line in text.splitlines() if line.startswith("perturbation_scale=")]) == GROUP_ROWS


def test_names_of_a_file_are_no_markup_and_no_line(tmp_path):
    files = []
    for number, scale in enumerate((1.0, 0.0)):
        facts = {"config.merge": HOSTILE, "exit_state": HOSTILE, "config.perturbation_scale": scale}
        files.append(write(simulated_run(seed=number, steps=150), tmp_path / f"{number}.db", **facts))
    judgement, stream = judged(*((file, HOSTILE) for file in files)), Terminal()
    print_out(*render(judgement, compare(judgement, judgement), verbose=True), stream=stream)
    text = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert "[bold red]SUPPORTED[/] :smile:" in text
    assert not set("\x1b\u202e") & set(text)
    assert not any(line.startswith(("# yes", "SUPPORTED")) for line in text.splitlines())


def test_thresholds_changed_after_the_fact_are_on_the_first_screen():
    changed = judged(EXAMPLES / "as-is.db", changed={"awakening_ratio": 1.3})
    assert "thresholds: changed after the fact: awakening_ratio from 1.1 to 1.3" in as_text(changed)
    assert "thresholds: " not in as_text(judged(EXAMPLES / "as-is.db"))


def test_a_missing_file_is_named_as_it_was_given(capsys):
    assert main(["check", "/absent/dynamics.db"]) == 2
    text = capsys.readouterr().out
    assert text.startswith("INVALID: no run could be read")
    assert "expected a file, found nothing there" in text


def test_a_run_that_is_still_training_is_provisional(tmp_path):
    judgement = written(tmp_path, simulated_run(awakening=1.5, divergence=0.5, control=True), planned_steps=900)
    assert "provisional" in headline(judgement)
    assert "95 % interval" not in as_text(judgement)
