"""The panel of a run in training, on a file that grows as a training writes it."""

import html
import time

import pytest

from prismatic.runfile.logger import DynamicsLogger
from tests.support.app_pages import EXAMPLES, opened, texts
from tests.support.simulated_runs import log_facts, log_rows, simulated_run
from validation.files.sources import read_sources
from validation.judgement.interim import looks_so_far
from validation.judgement.judge import judge

PAGE = "pages/2_Verdict.py"
STEPS = 120


@pytest.fixture
def training(tmp_path):
    """A run in training, and a function that logs its rows up to a step."""
    run = simulated_run(steps=STEPS, perturbed=3, control=3, awakening=1.5)
    path, started = tmp_path / "dynamics.db", time.time() - STEPS
    facts = {"exit_state": "running", "planned_steps": STEPS, "log_freq": 1, "run_hash": "a" * 9}
    with DynamicsLogger(path, num_experts=len(run.experts)) as logger:
        log_facts(logger, run, **facts, **{"config.merge": "example"})
        logged = 0

        def log_until(step):
            nonlocal logged
            log_rows(logger, run, range(logged, step), started=started)
            logged = step
            logger.flush()

        yield path, log_until


def test_the_panel_tells_the_next_look_and_each_verdict_so_far_as_the_file_grows(training):
    path, log_until = training
    log_until(20)
    at = opened(PAGE, (path, "live"))
    assert not at.exception
    assert "The next look is due after step **47** (2 of 6 parts of the training), in less than a minute." in texts(at)
    assert not [part for part in at.expander if part.label.startswith("The verdict at each look")]

    log_until(60)
    at.run()
    assert "The next look is due after step **83** (4 of 6 parts of the training)" in texts(at)
    assert "| After step |" not in texts(at)  # not until it is asked for
    at.session_state["see-looks"] = True
    at.run()
    assert "| After step | 47 |" in texts(at)
    assert "| Awakening | ✓ supported |" in html.unescape(texts(at))
    charts = len(at.get("vega_lite_chart"))

    log_until(90)
    at.run()
    assert "The final verdict is due after step **119** (6 of 6 parts of the training)" in texts(at)
    assert "| After step | 47 | 83 |" in texts(at)
    assert "| Awakening | ✓ supported | ✓ supported |" in html.unescape(texts(at))
    assert len(at.get("vega_lite_chart")) >= charts > 0


def test_the_panel_shows_the_verdicts_that_the_file_had_then(training):
    path, log_until = training
    log_until(50)
    then = judge(read_sources([path])[0]).verdict.controlled.claims[:3]
    log_until(90)
    now = judge(read_sources([path])[0])
    assert looks_so_far(now, now.runs[0])[0].claims == then


def test_a_finished_run_has_no_panel():
    assert "is due after" not in texts(opened(PAGE, (EXAMPLES / "as-is.db", "as-is")))
