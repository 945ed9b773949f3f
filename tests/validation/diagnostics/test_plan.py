"""Checks of a run against its plan, on a file of a real training that was changed by hand."""

from dataclasses import replace

import numpy as np
import pytest

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import simulated_run
from validation.analysis.bins import bins_of
from validation.analysis.run import Run
from validation.diagnostics import ERROR, INFO, WARNING, diagnose
from validation.diagnostics.plan import too_short
from validation.diagnostics.rows import rows_missing


def found(run: Run) -> dict[str, str]:
    """Return the severity of each finding by its id."""
    return {finding.id: finding.severity for finding in diagnose(run)}


def fact(name: str, value: object) -> str:
    return f"UPDATE run SET value = '{value}' WHERE key = '{name}'"


def moved(steps: str, by: int, source: str = "merged") -> tuple[str, ...]:
    """Return SQL that moves the rows of one source to other steps."""
    where = f"SET step = step + {by} WHERE {steps}"
    layers = f"UPDATE layers {where} AND source = '{source}'"
    return (f"UPDATE dynamics {where}", layers) if source == "merged" else (layers,)


def test_the_training_itself_has_no_error_and_no_warning(edited):
    assert not {ERROR, WARNING} & set(found(edited()).values())


# -- The logging grid -------------------------------------------------------------------------------------------------


def test_rows_between_the_declared_steps_are_an_error(edited):
    run = edited(*moved("step % 12 = 2 AND step > 2", 1))
    (finding,) = [finding for finding in diagnose(run) if finding.id == "off_grid"]
    assert finding.severity == ERROR
    assert "5 of 37 merged rows are not at a multiple of 2, such as those at step 15, 27, 39" in finding.evidence


def test_a_tenth_of_the_rows_may_lie_off_the_grid(edited):
    assert "off_grid" not in found(edited(*moved("step IN (14, 26, 38)", 1)))


def test_isolated_rows_belong_to_the_grid_of_both_frequencies(edited):
    (finding,) = [f for f in diagnose(edited(*moved("step IN (12, 24, 36)", 2, "isolated"))) if f.id == "off_grid"]
    assert "3 of 13 isolated rows are not at a multiple of 6" in finding.evidence


def test_a_run_that_declares_no_frequency_has_no_grid_to_leave(edited):
    undeclared = ("DELETE FROM run WHERE key IN ('log_freq', 'config.log_freq', 'config.probe_freq')",)
    assert "off_grid" not in found(edited(*undeclared, *moved("step % 12 = 2 AND step > 2", 1)))


def test_what_the_logger_declares_counts_before_an_option_of_the_model():
    facts = {"log_freq": 1, "config.log_freq": 10, "planned_steps": 300}
    assert "off_grid" not in found(simulated_run(steps=300, facts=facts))


def test_dense_rows_at_the_start_are_off_the_grid():
    run = simulated_run(steps=300, facts={"log_freq": 10, "planned_steps": 300})
    kept = np.flatnonzero((run.steps < 40) | (run.steps % 10 == 0))
    dense = Run(**{**vars(run), "steps": run.steps[kept], "experts": {}})
    assert found(dense)["off_grid"] == ERROR


# -- The clock --------------------------------------------------------------------------------------------------------


def test_rows_in_another_order_than_they_were_measured_are_an_error(edited):
    later = "UPDATE dynamics SET wall_time = wall_time + 3600 WHERE step % 20 = 0 AND step < 70"
    assert found(edited(later))["wall_time_falls"] == ERROR
    assert found(edited("UPDATE dynamics SET wall_time = -wall_time"))["wall_time_falls"] == ERROR


def test_many_small_falls_are_an_order_that_was_changed(edited):
    shuffled = "UPDATE dynamics SET wall_time = 1e9 + 0.01 * ((step * 29) % 73)"
    assert found(edited(shuffled))["wall_time_falls"] == ERROR


@pytest.mark.parametrize(("seconds", "is_found"), [(4, False), (6, True)])
def test_one_small_correction_of_the_clock_is_honest(edited, seconds, is_found):
    corrected = f"UPDATE dynamics SET wall_time = 1e9 + step - {seconds + 2} * (step > 40)"
    assert ("wall_time_falls" in found(edited(corrected))) is is_found


def test_a_file_without_wall_times_is_not_checked(edited):
    assert "wall_time_falls" not in found(edited("UPDATE dynamics SET wall_time = NULL"))


# -- The probe and the layers -----------------------------------------------------------------------------------------


def test_a_planned_probe_without_a_row_is_an_error(edited):
    (finding,) = [f for f in diagnose(edited("DELETE FROM layers WHERE source = 'isolated'")) if f.severity == ERROR]
    assert (finding.id, finding.evidence) == ("missing_probe", "probe_freq = 3, 12 probes due in 37 rows")


def test_a_run_without_a_probe_or_too_short_for_one_misses_none(edited):
    removed = "DELETE FROM layers WHERE source = 'isolated'"
    assert "missing_probe" not in found(edited(removed, fact("config.probe_freq", 0)))
    assert "missing_probe" not in found(edited(removed, fact("config.probe_freq", 100)))


@pytest.mark.parametrize("source", ["merged", "isolated"])
def test_a_layer_that_was_removed_is_an_error(edited, source):
    (finding,) = [
        finding
        for finding in diagnose(edited(f"DELETE FROM layers WHERE layer = 1 AND source = '{source}'"))
        if finding.severity == ERROR
    ]
    assert (finding.id, finding.evidence) == ("missing_layers", f"{source} rows of 1 of 2 layers")


def test_custom_layers_need_no_isolated_gradients(edited):
    mixed = "DELETE FROM run WHERE key = 'mixture'"
    assert "missing_layers" not in found(edited("DELETE FROM layers WHERE layer = 1 AND source = 'isolated'", mixed))


def test_means_over_several_layers_are_a_warning(edited):
    removed = ("DELETE FROM layers", fact("config.probe_freq", 0))
    assert found(edited(*removed))["means_only"] == WARNING
    assert "means_only" not in found(edited(*removed, fact("routers", 1)))


# -- The planned length -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("undeclared", ["DELETE FROM run WHERE key = 'planned_steps'", fact("planned_steps", "null")])
def test_a_run_that_declares_no_length_is_a_warning(edited, undeclared):
    assert found(edited(undeclared))["no_plan"] == WARNING


def test_six_planned_rows_after_the_warm_up_are_enough_and_five_are_not():
    facts = {"config.log_freq": 10, "planned_steps": 61}
    run = simulated_run(steps=61, facts=facts)
    at_rows = Run(**{**vars(run), "steps": np.arange(0, 61, 10), "experts": {}})
    assert not [*too_short(at_rows, Thresholds(warmup=0.001))]
    (finding,) = too_short(at_rows, Thresholds(warmup=0.2))
    assert finding.severity == WARNING
    assert "61 steps, with a row every 10: 1 of 6 bins of time after the warm-up" in finding.evidence


def test_a_live_run_is_judged_by_its_planned_length(edited):
    live = edited("DELETE FROM dynamics WHERE step > 8", "DELETE FROM layers WHERE step > 8")
    assert "too_short" not in found(live)
    assert found(live)["unfinished"] == WARNING


@pytest.mark.parametrize(("last", "ended"), [(1990, True), (1980, False)])
def test_a_run_ends_with_the_last_step_of_its_grid(last, ended):
    run = simulated_run(steps=2, facts={"planned_steps": 2000, "log_freq": 10, "exit_state": "running"})
    run = Run(**{**vars(run), "steps": np.array([0, last])})
    assert run.finished is ended
    assert found(run).get("unfinished") == (None if ended else INFO)


# -- Missing rows -----------------------------------------------------------------------------------------------------


def missing(run: Run, sound: np.ndarray, complete: int = 6) -> list[str]:
    """Return the severity and evidence of missing rows if only some rows are usable."""
    bins = bins_of(run.plan(0.1), run.steps, sound, np.zeros((1, len(run.steps))), share=0.8)
    return [
        f"{finding.severity}: {finding.evidence}" for finding in rows_missing(run, replace(bins, complete=complete))
    ]


def test_two_bins_with_too_few_rows_are_an_error_and_one_is_a_warning():
    run = simulated_run(steps=600, facts={"log_freq": 1, "planned_steps": 600})
    two = (run.steps < 100) | (run.steps >= 300)
    (evidence,) = missing(run, two)
    assert evidence.startswith("error")
    assert evidence.endswith("40 of 90 in bin 1, 0 of 90 in bin 2, 30 of 90 in bin 3")
    (evidence,) = missing(run, (run.steps < 160) | (run.steps > 255))
    assert evidence.startswith("warning")
    assert evidence.endswith("10 of 90 in bin 2, 74 of 90 in bin 3")


def test_more_rows_than_those_of_one_bin_and_a_few_are_an_error_wherever_they_lie():
    run = simulated_run(steps=600, facts={"log_freq": 1, "planned_steps": 600})
    outage = (run.steps >= 150) & (run.steps < 240)  # 90 rows, and 2 % of 540 are 10
    for lost, severity in ((10, "warning"), (11, "error")):
        (evidence,) = missing(run, ~outage & (run.steps < 600 - lost))
        assert evidence.startswith(severity)
        assert evidence.endswith(f"0 of 90 in bin 2, {90 - lost} of 90 in bin 6")
    spread = (run.steps - 60) % 90 >= 17  # 17 of 90 rows in each bin, which is there with 80 %
    (evidence,) = missing(run, spread)
    assert evidence.startswith("error")


@pytest.mark.parametrize(("lost", "is_found"), [(10, False), (11, True)])
def test_more_than_two_per_cent_of_lost_rows_are_a_warning(lost, is_found):
    run = simulated_run(steps=600, facts={"log_freq": 1, "planned_steps": 600})
    assert bool(missing(run, run.steps >= 60 + lost)) == is_found


def test_bins_that_have_not_ended_are_not_missing():
    run = simulated_run(steps=300, facts={"log_freq": 1, "planned_steps": 600})
    assert not missing(run, np.full(300, True), complete=2)
    assert missing(run, np.full(300, True), complete=6)


def test_a_run_with_fewer_planned_rows_than_bins_is_too_short_instead():
    run = simulated_run(steps=3, facts={"log_freq": 1, "planned_steps": 3})
    assert not missing(run, np.full(3, False))
    assert "too_short" in found(run)
