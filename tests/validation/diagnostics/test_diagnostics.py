"""The checks of diagnostics: each finds its problem in a run that has it, and nothing in a sound run."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import vl_convert

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import simulated_run, with_norms
from validation.analysis.run import Run
from validation.charts.findings import CHARTS, finding_chart
from validation.diagnostics import CHECKS, ERROR, INFO, WARNING, diagnose, invalidating, of_rejected
from validation.diagnostics.checklist import CHECKED, PASSED, UNCHECKED, checklist, troubleshooting
from validation.files.read_files import read_files
from validation.judgement.judge import judge_each

TIER_NORMS = ("top_norm", "bottom_norm", "middle_norm")


def found(run):
    """Return the severity of each finding by its id."""
    return {finding.id: finding.severity for finding in diagnose(run)}


def changed(run, **fields):
    return Run(**{**vars(run), **fields})


def cut(run, rows):
    """Return the run with some of its rows."""
    from validation.analysis.run import Expert

    experts = {
        number: Expert(number, expert.role, {name: column[rows] for name, column in expert.columns.items()})
        for number, expert in run.experts.items()
    }
    return changed(run, steps=run.steps[rows], experts=experts)


def all_zero(run, expert):
    return with_norms(run, expert, **dict.fromkeys(TIER_NORMS, np.zeros(len(run.steps))))


def test_a_sound_run_has_no_error_and_no_warning():
    assert not {ERROR, WARNING} & set(found(simulated_run(control=True, facts={"planned_steps": 600})).values())


def test_a_file_without_rows_is_no_data():
    assert found(cut(simulated_run(), slice(0, 0)))["no_data"] == ERROR


def test_norms_that_are_all_zero_invalidate_the_run_and_name_the_order_of_calls():
    run = all_zero(all_zero(simulated_run(), 0), 1)
    finding = next(f for f in diagnose(run) if f.id == "zero_norms")
    assert (finding.severity, finding.expert) == (ERROR, None)
    assert "zero_grad" in finding.cause


def test_one_expert_without_gradients_invalidates_its_run():
    run = all_zero(simulated_run(), 1)
    assert invalidating(diagnose(run)).keys() == {"simulated"}


@pytest.mark.parametrize(("share", "severity"), [(0.05, WARNING), (0.4, ERROR)])
def test_missing_values_are_a_warning_and_many_are_an_error(share, severity):
    run = simulated_run()
    holed = run.experts[1]["top_norm"].copy()
    holed[: int(share * len(holed))] = np.nan
    assert found(with_norms(run, 1, top_norm=holed))["nonfinite"] == severity


@pytest.mark.parametrize(
    ("value", "counted", "cause", "fix"),
    [
        (np.nan, {"nonfinite": 0.0, "nan_values": 0.0}, "the expert was not logged", "begin a new run"),
        (np.nan, {"nonfinite": 3.0, "nan_values": 0.0}, "the loss or the gradients overflowed", "lower the"),
        (np.inf, {}, "the loss or the gradients overflowed", "lower the"),
        (np.nan, {}, "overflowed (training diverged, or half precision without a GradScaler), or", "if gradients"),
    ],
)
def test_missing_values_have_the_cause_that_the_logger_counted(value, counted, cause, fix):
    run = simulated_run()
    holed = run.experts[1]["top_norm"].copy()
    holed[:100] = value
    columns = {name: np.where(np.arange(len(holed)) < 100, count, 0.0) for name, count in counted.items()}
    run = changed(with_norms(run, 1, top_norm=holed), step_columns=columns)
    (finding,) = (finding for finding in diagnose(run) if finding.id == "nonfinite")
    assert cause in finding.cause
    assert fix in finding.fix
    assert ("overflow" in finding.cause) == ("learning rate" in finding.fix)


def test_a_run_that_ends_in_nan_is_invalid_however_long_it_was_sound():
    run = simulated_run()
    diverged = run.experts[1]["top_norm"].copy()
    diverged[-12:] = np.inf
    assert found(with_norms(run, 1, top_norm=diverged))["nonfinite"] == ERROR


def test_a_run_without_a_clean_expert_cannot_be_judged():
    run = simulated_run()
    assert found(changed(run, experts={1: run.experts[1]}))["missing_experts"] == ERROR


def test_a_run_of_the_clean_expert_alone_cannot_be_judged():
    run = simulated_run()
    assert found(changed(run, experts={0: run.experts[0]}))["missing_experts"] == ERROR


def test_fewer_experts_than_the_model_has_are_named():
    run = simulated_run(facts={"config.num_experts": 4})
    finding = next(f for f in diagnose(run) if f.id == "missing_experts")
    assert finding.severity == WARNING
    assert "expert 2, 3" in finding.evidence


def test_an_expert_that_equals_the_clean_one_is_invalid():
    run = simulated_run()
    same = with_norms(run, 1, **{name: run.experts[0][name] for name in TIER_NORMS})
    assert found(same)["identical_experts"] == ERROR


def test_an_expert_of_which_nothing_was_changed_is_invalid():
    run = simulated_run(facts={"config.perturbation_scale": 1.0})
    unchanged = changed(run, changed={1: {"top": 0.0, "bottom": 0.0, "middle": 0.0}})
    assert found(unchanged)["identical_experts"] == ERROR


def test_a_sham_run_may_equal_the_clean_expert():
    run = simulated_run(facts={"config.perturbation_scale": 0.0})
    unchanged = changed(run, changed={1: {"top": 0.0, "bottom": 0.0, "middle": 0.0}})
    assert "identical_experts" not in found(unchanged)


def test_a_collapsed_router_is_found_with_the_step_at_which_it_collapsed():
    share = np.concatenate([np.full(300, 0.5), np.full(300, 0.99)])
    run = with_norms(with_norms(simulated_run(), 1, routing_weight=share), 0, routing_weight=1 - share)
    finding = next(f for f in diagnose(run) if f.id == "router_collapse")
    assert "from step 300" in finding.evidence


def test_a_router_that_only_touched_the_edge_has_not_collapsed():
    share = np.concatenate([np.full(300, 0.99), np.full(300, 0.5)])
    run = with_norms(with_norms(simulated_run(), 1, routing_weight=share), 0, routing_weight=1 - share)
    assert "router_collapse" not in found(run)


def test_one_common_gradient_is_found():
    assert found(simulated_run(collinear=True, routing_ratio=2.0))["collinear_gradients"] == WARNING


def test_a_short_run_is_a_warning_that_counts_the_bins_without_a_row():
    finding = next(f for f in diagnose(simulated_run(steps=6)) if f.id == "too_short")
    assert finding.severity == WARNING
    assert "6 steps, with a row every 1: 1 of 6 bins" in finding.evidence


def test_a_long_gap_is_an_error_and_a_regular_distance_is_not():
    run = simulated_run(steps=400)
    rows = np.r_[0:100, 300:400]
    assert found(cut(run, rows))["step_gaps"] == ERROR
    assert "step_gaps" not in found(cut(run, np.arange(0, 400, 10)))


def test_a_short_run_with_few_rows_has_no_gap():
    assert "step_gaps" not in found(cut(simulated_run(steps=31), np.array([0, 10, 20, 30])))


def test_replaced_rows_are_reported():
    assert found(changed(simulated_run(), duplicates=3))["duplicate_steps"] == WARNING


def test_a_wal_file_that_may_lack_rows_is_invalid():
    assert found(changed(simulated_run(), wal=True))["wal_missing"] == ERROR


def test_a_wal_file_of_a_finished_run_is_only_informed_about():
    whole = simulated_run(facts={"exit_state": "finished", "planned_steps": 600})
    assert found(changed(whole, wal=True))["wal_missing"] == INFO


def test_a_tier_that_is_not_logged_is_named_and_not_blamed_on_overflow():
    run = with_norms(simulated_run(), 1, middle_norm=np.full(600, np.nan))
    finding = next(f for f in diagnose(run) if f.id == "missing_columns")
    assert "expert_1_middle_norm" in finding.evidence
    assert "nonfinite" not in found(run)


def test_rows_with_a_zero_tier_are_counted():
    run = simulated_run()
    holed = run.experts[1]["bottom_norm"].copy()
    holed[:30] = 0.0
    finding = next(f for f in diagnose(with_norms(run, 1, bottom_norm=holed)) if f.id == "zero_tier")
    assert (finding.severity, finding.evidence[:24]) == (WARNING, "in 30 of 600 merged rows")


def test_tiers_of_one_expert_that_are_zero_are_listed():
    run = simulated_run()
    norms = {f"{tier}_norm": run.experts[1][f"{tier}_norm"].copy() for tier in ("top", "bottom", "middle")}
    for values in norms.values():
        values[:30] = 0.0
    finding = next(f for f in diagnose(with_norms(run, 1, **norms)) if f.id == "zero_tier")
    assert finding.symptom == "the top, bottom and middle norms of expert 1 are zero"


def test_a_tier_that_is_always_zero_invalidates_its_run():
    run = with_norms(simulated_run(), 1, bottom_norm=np.zeros(600))
    assert invalidating(diagnose(run)) == {"simulated": "the bottom norm of expert 1 is zero"}


def test_a_logger_that_is_stuck_is_invalid():
    run = simulated_run()
    stuck = cut(run, np.zeros(300, dtype=int))
    assert found(changed(stuck, steps=np.arange(300)))["constant_rows"] == ERROR


def test_a_huge_number_of_experts_is_named_in_short():
    finding = next(f for f in diagnose(simulated_run(facts={"config.num_experts": 1e14})) if f.id == "missing_experts")
    assert finding.evidence.endswith("and more; the file has 2 experts")


def test_the_thresholds_reach_the_checks():
    short = simulated_run(steps=7)
    assert "too_short" in {f.id for f in diagnose(short, Thresholds(warmup=0.3))}
    assert "too_short" not in {f.id for f in diagnose(short, Thresholds(warmup=0.01))}


def test_parameters_without_gradients_are_counted():
    missing = np.zeros(600)
    missing[5] = 4
    finding = next(
        f
        for f in diagnose(changed(simulated_run(), step_columns={"missing_gradients": missing}))
        if f.id == "missing_gradients"
    )
    assert "up to 4 tensors, in 1 of 600 rows" in finding.evidence


def test_a_positive_control_is_marked():
    assert found(simulated_run(facts={"config.positive_control": 1.5}))["positive_control"] == WARNING


def test_an_unfinished_run_is_provisional():
    assert found(simulated_run(facts={"planned_steps": 5000}))["unfinished"] == WARNING
    assert found(simulated_run(facts={"planned_steps": 5000, "exit_state": "running"}))["unfinished"] == INFO


def test_facts_of_the_wrong_kind_break_no_check():
    wrong = {
        "config.num_experts": "three",
        "config.control_experts": [1],
        "planned_steps": 1e300,
        "exit_state": {"a": 1},
    }
    strange = {"config.perturbation_scale": True, "config.positive_control": "x", "config.sparsity": float("nan")}
    assert ERROR not in found(simulated_run(facts=wrong | strange)).values()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_accepts_an_empty_run_and_has_a_docstring(check):
    assert check.__doc__
    for finding in check(cut(simulated_run(), slice(0, 0)), Thresholds()):
        assert all((finding.symptom, finding.evidence, finding.cause, finding.fix))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_finding_has_the_name_of_its_check(check):
    runs = (
        simulated_run(collinear=True, steps=50),
        changed(simulated_run(), wal=True, duplicates=1),
        all_zero(simulated_run(), 1),
    )
    assert {f.id for run in runs for f in check(run, Thresholds())} <= {check.__name__}


def test_a_file_that_could_not_be_read_becomes_a_finding(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("not a run")
    _, (rejected,) = read_files([tmp_path / "notes.txt"])
    finding = of_rejected(rejected)
    assert (finding.id, finding.severity) == ("not_a_run", ERROR)
    assert "notes.txt" in finding.symptom


@pytest.mark.parametrize("code", ["dropped", "measurement_failed", "refused_row"])
def test_lost_steps_are_reported(code):
    finding = next(f for f in diagnose(changed(simulated_run(), events={code: 3})) if f.id == "rows_lost")
    assert finding.severity == WARNING
    assert "3 events" in finding.evidence


def broken(kind):
    """Return a run in which the check of this name finds something, and the events of its file."""
    run, half = simulated_run(), np.arange(600) < 300
    sound = run.experts[1]["bottom_norm"]
    share = np.where(half, 0.5, 0.99)
    constant = with_norms(with_norms(run, 0, routing_weight=half * 0 + 0.5), 1, routing_weight=half * 0 + 0.5)
    events = pd.DataFrame({"step": [3, 5, None], "code": ["dropped", "repeated_step", "rewind"]})
    runs = {
        "zero_norms": all_zero(all_zero(run, 0), 1),
        "zero_tier": with_norms(run, 1, bottom_norm=np.where(half, 0.0, sound)),
        "nonfinite": with_norms(run, 1, bottom_norm=np.where(half, np.nan, sound)),
        "constant_rows": changed(cut(run, np.zeros(300, dtype=int)), steps=np.arange(300)),
        "missing_experts": with_norms(run, 1, **dict.fromkeys((*TIER_NORMS, "norm"), np.full(600, np.nan))),
        "missing_columns": with_norms(run, 1, middle_norm=np.full(600, np.nan)),
        "missing_gradients": changed(run, step_columns={"missing_gradients": 2.0 * half}),
        "rows_lost": changed(run, events={"dropped": 1}),
        "logging_order": changed(run, events={"repeated_step": 1}),
        "step_gaps": cut(run, np.r_[0:100, 500:600]),
        "off_grid": simulated_run(facts={"config.log_freq": 5}),
        "wall_time_falls": changed(run, step_columns={"wall_time": np.where(half, 1e4, 0.0) + np.arange(600)}),
        "rows_missing": with_norms(run, 1, bottom_norm=np.where(half, np.nan, sound)),
        "too_short": simulated_run(steps=6),
        "unfinished": simulated_run(facts={"planned_steps": 5000}),
        "identical_experts": with_norms(run, 1, **{name: run.experts[0][name] for name in TIER_NORMS}),
        "not_a_control": changed(simulated_run(control=1), scales={2: 0.5}),
        "constant_shares": changed(constant, facts={"config.routing": "trained"}),
        "collinear_gradients": simulated_run(collinear=True, routing_ratio=2.0),
        "router_collapse": with_norms(with_norms(run, 1, routing_weight=share), 0, routing_weight=1 - share),
        "scale_dependent_threshold": run,
        "positive_control": simulated_run(facts={"config.positive_control": 1.5}),
    }
    return runs[kind], events


@pytest.mark.parametrize("kind", CHARTS)
def test_every_finding_with_a_chart_is_drawn_from_the_run(kind):
    run, events = broken(kind)
    findings = [finding for finding in judge_each([run], Thresholds())[0].findings if finding.id == kind]
    assert findings
    for finding in findings:
        chart = finding_chart(finding, run, Thresholds(), events)
        spec = chart.to_dict()  # checked against the schema of charts
        assert any(rows for rows in spec.get("datasets", {}).values())
        assert kind != "nonfinite" or vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]).startswith("<svg")


def test_an_empty_run_has_no_chart_and_every_chart_has_a_check():
    names = {check.__name__ for check in CHECKS}
    undrawn = {"no_data", "wal_missing", "duplicate_steps", "missing_probe", "no_plan", "means_only", "missing_layers"}
    undrawn |= {"incomplete_layers", "missing_values", "facts_disagree"}
    undrawn |= {"tiers_disagree", "damaged"}
    assert names - CHARTS.keys() == undrawn
    assert CHARTS.keys() - names == {"rows_missing"}  # found when a run is measured
    empty = cut(simulated_run(), slice(0, 0))
    assert all(finding_chart(finding, empty, Thresholds()) is None for finding in diagnose(empty))


def lines(run):
    """Return the lines of the checklist by title."""
    themes = checklist(run, diagnose(run), Thresholds())
    return {line.title: line for theme in themes.values() for line in theme}


def test_the_documentation_has_every_check_once():
    page = (Path(__file__).parents[3] / "docs" / "diagnostics.md").read_text()
    documented = re.findall(r"^\| `([a-z_]+)`", page, re.MULTILINE)
    by_run = [check.__name__ for check in CHECKS]
    assert sorted(documented) == sorted([*by_run, "rows_missing", "copied_run"])  # these two are not of one run alone


def test_the_checklist_has_every_check_once():
    names = [name for checks in CHECKED.values() for name in checks]
    assert sorted(names) == sorted(check.__name__ for check in CHECKS)


def test_the_checklist_shows_numbers_and_names_what_the_file_lacks():
    checked = lines(simulated_run())
    assert (checked["Steps were logged"].result, checked["Steps were logged"].seen) == (
        PASSED,
        "600 logged steps, 0 to 599",
    )
    assert checked["No logged step was lost"].result == UNCHECKED  # the file has no record of events
    assert checked["Enough planned rows for the bins of time"].seen.startswith("at least 90 planned rows in each")


@pytest.mark.parametrize("kind", CHARTS)
def test_a_finding_is_never_listed_as_passed(kind):
    run, _ = broken(kind)
    found_ids = {finding.id for finding in diagnose(run)}
    checked = lines(run)
    for checks in CHECKED.values():
        for name, (title, _) in checks.items():
            assert (checked[title].result in (ERROR, WARNING, INFO)) == (name in found_ids)


def test_an_empty_run_does_not_pass_checks_that_need_rows():
    checked = lines(cut(simulated_run(), slice(0, 0)))
    assert checked["No norm is NaN, infinite or missing"].result == UNCHECKED
    assert checked["Steps were logged"].result == ERROR


def test_the_documented_troubleshooting_names_what_was_found():
    run = all_zero(all_zero(simulated_run(), 0), 1)
    results = {line.title: line.result for line in troubleshooting(run, diagnose(run), Thresholds())}
    assert results == {
        "“No data” message in the Dynamics tab": PASSED,
        "Missing experts in the chart": PASSED,
        "All gradient norms are zero": ERROR,
    }


def test_columns_without_any_value_are_one_finding_with_its_cause():
    run = simulated_run()
    nothing = {name: np.full(len(run.steps), np.nan) for name in (*TIER_NORMS, "norm")}
    empty = with_norms(with_norms(run, 0, **nothing), 1, **nothing)
    for each in (empty, changed(run, experts={})):
        (finding,) = [one for one in diagnose(each) if one.id == "missing_experts"]
        assert (finding.severity, finding.symptom) == (ERROR, "every gradient column is empty")
        assert "no expert had a gradient" in finding.cause


@pytest.mark.parametrize(
    ("hook", "cause", "advised"),
    [
        (None, "the logging call is at the wrong place", True),
        ("optimizer step pre-hook", "is at the right place", False),
    ],
)
def test_a_hook_that_was_in_use_is_not_recommended(hook, cause, advised):
    run = changed(simulated_run(facts={"hook": hook} if hook else {}), events=Counter(no_gradients=3))
    (finding,) = [one for one in diagnose(run) if one.id == "logging_order"]
    assert cause in finding.cause
    assert ("attach" in finding.fix) == advised


def test_an_optimizer_that_steps_inside_backward_is_named():
    run = changed(simulated_run(), events=Counter(step_in_backward=1))
    (finding,) = [one for one in diagnose(run) if one.id == "logging_order"]
    assert "inside the backward pass" in finding.symptom
