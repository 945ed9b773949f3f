"""A past look is judged as if the files had been cut at its step, and the next one is told in advance."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.app_pages import EXAMPLES
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import study, write
from validation.analysis.bins import Plan
from validation.files.sources import read_sources
from validation.judgement.interim import looks_so_far, next_look
from validation.judgement.judge import judge

GROWING = {"exit_state": "running"}


def cut(file, step):
    """Return a run file with the rows up to a step."""

    def until(table):
        return table.filter(table["step"].to_numpy() <= step) if "step" in table.column_names and len(table) else table

    tables = ("wide", "layers", "pairs", "histograms", "events")
    return replace(file, **{name: until(getattr(file, name)) for name in tables})


def files_of(folder, runs):
    paths = [write(run, folder / f"{place}.db", run_hash=f"{place:x}" * 9) for place, run in enumerate(runs)]
    return read_sources(paths)[0]


CASES = {
    "one run that is confounded": lambda folder: read_sources([EXAMPLES / "as-is.db"])[0],
    "a positive control": lambda folder: read_sources([EXAMPLES / "positive-control.db"])[0],
    "one run per example": lambda folder: read_sources([EXAMPLES / "per-example.db"])[0],
    "seeds with an effect": lambda folder: files_of(
        folder, study(6, probed_run, bottom=np.linspace(0.6, 0.1, 24), steps=120)
    ),
    "seeds and their twins": lambda folder: files_of(folder, study(6, probed_run, twins=True, steps=120)),
    "merged gradients": lambda folder: files_of(folder, study(6, control=3, awakening=1.5, steps=120)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bins", [2, 4])
def test_a_past_look_is_the_verdict_of_the_files_cut_at_its_step(case, bins, tmp_path):
    files = CASES[case](tmp_path)
    now = judge(files)
    run = now.runs[0]
    look = next(look for look in looks_so_far(now, run) if look.bins == bins)
    then = judge([cut(file, look.step) for file in files])
    assert list(look.claims) == list(then.group_of(run.id).claims)
    assert {claim.bins for claim in look.claims} == {bins}
    a_row_earlier = judge([cut(file, look.step - 1) for file in files])
    assert {claim.bins for claim in a_row_earlier.group_of(run.id).claims} == {bins - 2}
    announced = next_look(a_row_earlier, a_row_earlier.runs[0])
    assert announced.bins == bins
    assert announced.step == look.step


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("every", [1, 7, 20])
def test_a_bin_is_complete_after_the_row_that_is_told_and_not_before(first, every):
    plan = Plan(first, every, planned=1000, warmup=100.0)
    for bins in range(1, 7):
        step = plan.completes(bins)
        assert plan.complete(step) >= bins
        assert plan.complete(step - every) < bins


def test_the_next_look_is_due_by_the_pace_of_the_slowest_run():
    (file,) = read_sources([EXAMPLES / "per-example.db"])[0]
    early = cut(file, file.wide["step"].to_numpy()[-1] * 0.3)
    steps = early.wide["step"].to_numpy()
    place = early.wide.column_names.index("wall_time")
    slow = early.wide.set_column(place, "wall_time", [1000.0 + 2.0 * steps])
    running = replace(early, wide=slow, facts={**early.facts, **GROWING})
    judgement = judge([running])
    look = next_look(judgement, judgement.runs[0])
    assert look.seconds == pytest.approx(2.0 * (look.step - steps[-1]))
    stopped = judge([replace(running, facts={**early.facts, "exit_state": "interrupted"})])
    assert next_look(stopped, stopped.runs[0]).seconds is None


def test_a_finished_run_has_no_next_look():
    judgement = judge(read_sources([EXAMPLES / "as-is.db"])[0])
    assert next_look(judgement, judgement.runs[0]) is None
