"""The panel "How is this decided?" opens the line of the table that decided, with the numbers of the runs."""

import pytest
from streamlit.testing.v1 import AppTest

from tests.support.app_pages import EXAMPLES, texts
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import simulated_run, study
from validation.files.sources import read_sources
from validation.judgement.judge import judge
from validation.method.table import deciding_line, lines_before
from validation.verdict.claims import Reason
from validation.verdict.decide import judge_runs


class Judged:
    """The parts of a judgement that the panel needs."""

    def __init__(self, runs):
        self.runs, self.verdict = runs, judge_runs(runs, {})


CASES = {
    Reason.ONE_COMMON_GRADIENT: lambda: judge(*read_sources([EXAMPLES / "as-is.db"])),
    Reason.ABOVE_MARGIN: lambda: Judged(study(6, probed_run, bottom=0.5, control=2, steps=120)),
    Reason.INSIDE_MARGIN: lambda: Judged(study(6, control=2, steps=120)),
    Reason.TOO_FEW_SEEDS: lambda: Judged(study(3, control=2)),
    Reason.TOO_FEW_EXPERTS: lambda: Judged(study(1, control=1)),
    Reason.NOTHING_TO_COMPARE: lambda: Judged(study(6)),
    Reason.BEFORE_FIRST_LOOK: lambda: Judged(study(6, control=2, steps=120, facts={"planned_steps": 900})),
    Reason.NOTHING_PERTURBED: lambda: Judged(study(6, control=2, scale=0.0)),
    Reason.SAME_IN_EVERY_GROUP: lambda: Judged(
        [*study(6, control=2, steps=120), *study(6, control=2, steps=120, first_seed=6, scale=2.0)]
    ),
}


def script(judgement, claim):
    from ui.layout.method import method_panel

    method_panel(judgement, claim)


def opened(judgement, claim, *, is_open=True):
    at = AppTest.from_function(script, args=(judgement, claim), default_timeout=30)
    at.session_state[f"method-{claim.name}"] = is_open
    return at.run()


@pytest.mark.parametrize("reason", CASES)
def test_the_panel_shows_the_line_that_decided_and_the_numbers(reason):
    judgement = CASES[reason]()
    claim = judgement.verdict.headlines["awakening"]
    assert claim.reason == reason
    at = opened(judgement, claim)
    assert not at.exception
    shown = texts(at)
    assert f"Awakening is {claim.status}" in shown
    line = deciding_line(claim)
    if line:
        assert line.condition.partition("[")[0] in shown
        assert all(each.condition.partition("[")[0] in shown for each in lines_before(claim))
    assert "awakening_ratio" in shown
    assert [button.label for button in at.button] == ["Read the whole method"]


def test_a_planted_effect_is_found_in_the_panel_too():
    judgement = judge(*read_sources([EXAMPLES / "positive-control.db"]))
    shown = texts(opened(judgement, judgement.verdict.headlines["awakening"]))
    assert "Awakening is supported: the planted effect is found" in shown
    assert "**In this run:**" in shown


def test_the_panel_makes_nothing_until_it_is_opened():
    judgement = CASES[Reason.ONE_COMMON_GRADIENT]()
    at = opened(judgement, judgement.verdict.headlines["awakening"], is_open=False)
    assert not at.exception
    assert not at.markdown


def test_the_panel_says_where_each_threshold_comes_from():
    judgement = judge(*read_sources([EXAMPLES / "as-is.db"]), {"awakening_ratio": 1.2})
    shown = texts(opened(judgement, judgement.verdict.headlines["awakening"]))
    assert "| `awakening_ratio` | 1.2 | changed; registered: 1.1 |" in shown
    assert "| `alpha` | 0.05 | registered before the first step |" in shown


def test_the_whole_method_opens_from_the_panel():
    judgement = judge(*read_sources([EXAMPLES / "as-is.db"]))
    at = opened(judgement, judgement.verdict.headlines["divergence"])
    at.button[0].click().run()
    assert not at.exception
    assert "What the statuses mean" in texts(at)


def test_a_claim_as_written_names_the_documented_rules():
    run = simulated_run()
    judgement = Judged([run])
    claim = judgement.verdict.as_written.whole(run.id)["divergence"]
    shown = texts(opened(judgement, claim))
    assert "no interval, no warm-up and no control" in shown
    assert "divergence_supported" in shown
