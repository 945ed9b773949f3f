"""The seeds of a group of runs, compared with the seeds that the runs registered before their first step."""

import pytest

from prismatic import DynamicsLogger, DynamicsLoggerCallback
from prismatic.contract.study import Study
from tests.support.simulated_runs import simulated_run
from tests.support.small_layers import layer
from validation import read_sources
from validation.analysis.load import load_runs
from validation.analysis.run import Run
from validation.verdict.registration import registered_study

SIX = range(6)


def run_of(seed: int, planned=None, *, runs: int = 18) -> Run:
    study = Study(tuple(planned), runs, "ab" * 32).facts() if planned is not None else {}
    return Run(**{**vars(simulated_run(steps=30)), "facts": {"config.seed": seed, **study}})


def test_all_planned_seeds_are_as_registered():
    found = registered_study([run_of(seed, SIX) for seed in SIX])
    assert found.status == "as_registered"
    assert found.because == "every planned seed is here (0..5), registered before the first step, in a study of 18 runs"


def test_a_custom_loop_registers_the_seeds_alone(tmp_path):
    for seed in (0, 1):
        for planned in ([0, 1], [0, 1, 2]):  # the second time, training resumes
            with DynamicsLogger(tmp_path / f"{seed}.db") as logger:
                callback = DynamicsLoggerCallback(logger)
                facts = {"config.seed": seed, "study.seeds": planned, "resumed": len(planned) > 2}
                callback.on_train_begin(layer(), **facts)
                logger.log(0, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
    runs = load_runs(read_sources(sorted(tmp_path.glob("*.db")))[0])
    assert all(run.facts["option.resumed"] for run in runs)
    assert registered_study(runs).because == "every planned seed is here (0..1), registered before the first step"


def test_the_best_six_of_fourteen_are_incomplete_and_the_others_are_named():
    found = registered_study([run_of(seed, range(14)) for seed in (1, 2, 5, 7, 8, 12)])
    assert (found.status, found.missing) == ("incomplete", (0, 3, 4, 6, 9, 10, 11, 13))
    assert found.because == "6 of 14 planned seeds are here; missing: 0, 3..4, 6, 9..11, 13"


def test_seeds_of_a_repeated_sweep_with_more_values_are_extra():
    runs = [run_of(seed, SIX) for seed in SIX] + [run_of(seed, range(8)) for seed in (6, 7)]
    found = registered_study(runs)
    assert (found.status, found.extra) == ("extra", (6, 7))
    assert found.because == "outside the registered plan: 6..7; runs may have been added after results were known"
    assert registered_study(runs[:-1]).missing == (7,)


def test_runs_that_were_planned_one_by_one_are_extra():
    found = registered_study([run_of(seed, [seed]) for seed in SIX])
    assert (found.status, found.extra) == ("extra", tuple(SIX))


def test_a_run_without_registration_is_outside_the_plan():
    found = registered_study([run_of(0), *(run_of(seed, SIX) for seed in range(1, 6))])
    assert (found.status, found.extra) == ("extra", (0,))


def test_a_run_whose_seed_is_not_in_its_own_plan_is_outside_of_it():
    assert registered_study([run_of(9, SIX), *(run_of(seed, SIX) for seed in SIX)]).extra == (9,)


def test_missing_and_extra_seeds_are_both_named():
    found = registered_study([run_of(9), *(run_of(seed, SIX) for seed in range(5))])
    assert (found.status, found.missing, found.extra) == ("incomplete", (5,), (9,))
    assert found.because == "5 of 6 planned seeds are here; missing: 5; outside the registered plan: 9"


@pytest.mark.parametrize("runs", [[], [run_of(0)], [run_of(seed) for seed in SIX]])
def test_without_a_plan_seeds_may_have_been_chosen(runs: list[Run]):
    assert registered_study(runs).status == "not_registered"
