"""Groups of runs: what makes one, their names and roles, the checks of controls, and claims over several groups."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prismatic.contract.options import as_facts
from prismatic.contract.thresholds import Thresholds
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import named, simulated_run, study
from validation.analysis.cohort import MeasuredRun
from validation.analysis.intervals import holm
from validation.analysis.run import Run
from validation.verdict.claims import (
    CONFOUNDED,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SUPPORTED,
    Claim,
    Reason,
    combine_statuses,
)
from validation.verdict.decide import judge_runs
from validation.verdict.groups import SHAM, TREATED, Group, combine_groups, deciding_groups, group_runs

STUDY = {"perturbed": 3, "control": 3}


def renamed(prefix: str, runs: list[Run], **config) -> list[Run]:
    return [named(run, f"{prefix}{run.id}", **config) for run in runs]


def grouped(*facts: dict) -> list[Group]:
    """Return the groups of short runs with these facts."""
    runs = [replace(simulated_run(steps=5), id=f"r{number}", facts=each) for number, each in enumerate(facts)]
    return [group for _, group in group_runs([MeasuredRun.without_levels(run) for run in runs])]


def options(**config) -> dict:
    return {f"config.{name}": value for name, value in config.items()}


def test_runs_are_grouped_by_everything_but_the_seed_and_the_device():
    groups = grouped(
        options(num_layers=2, seed=0),
        options(num_layers=4, seed=0),
        options(num_layers=2, seed=1, device="cuda"),
        options(num_layers=4, seed=1) | {"planned_steps": 50},
    )
    assert [group.runs for group in groups] == [("r0", "r2"), ("r3",), ("r1",)]
    assert groups[0].name == "num_layers=2, steps=None"


def test_three_seeds_of_another_trainer_are_one_group_whatever_else_tells_their_runs_apart():
    same = {"learning_rate": 1e-3, "batch_size": 32, "optimizer": "AdamW", "planned_steps": 100}
    facts = [
        as_facts({**same, "seed": seed, "run_name": f"run-{seed}", "output_dir": f"out/{seed}"})
        | {"run_hash": f"{seed}abc", "started": 1e9 + seed, "host": f"node{seed}", "git_commit": str(seed)}
        for seed in range(3)
    ]
    (group,) = grouped(*facts)
    assert len(group.runs) == 3
    assert len(grouped(*facts, {**facts[0], "option.learning_rate": 3e-4})) == 2
    assert len(grouped(*facts, {**facts[0], "planned_steps": 200})) == 2


def test_a_scale_that_a_user_gives_makes_sham_runs_and_doses():
    facts = [as_facts({"seed": seed, "perturbation_scale": scale}) for seed in range(2) for scale in (0.0, 0.5, 1.0)]
    assert [group.role for group in grouped(*facts)] == [TREATED, TREATED, SHAM]


def test_a_run_of_unknown_options_is_a_group_of_its_own():
    groups = grouped({}, {"planned_steps": 5}, options(seed=1), options(seed=2))
    assert [group.name for group in groups] == [
        "run r0 (options unknown)",
        "run r1 (options unknown)",
        "the runs of known options",
    ]


def test_a_single_group_is_all_runs_and_many_differing_options_are_counted():
    assert grouped(options(seed=1), options(seed=2))[0].name == "all runs"
    many = grouped(*(options(**{f"option_{n}": value for n in range(8)}) for value in "ab"))
    assert many[0].name == "option_0=a, option_1=a, option_2=a, option_3=a, option_4=a and 3 more options"
    assert len(grouped(options(name="x" * 500), options(name="y"))[0].name) < 60


def test_roles_are_those_of_the_perturbation():
    facts = [options(perturbation_scale=s) for s in (1.0, 0.0, "0.001", 0.002)] + [options(positive_control=2.0)]
    assert [group.role for group in grouped(*facts)] == [TREATED, TREATED, "positive_control", SHAM, SHAM]


def test_groups_are_in_the_order_of_their_options_and_controls_come_last():
    scales = [options(perturbation_scale=scale) for scale in (10.0, 0.0, 2.0, 0.5)]
    assert [group.options["perturbation_scale"] for group in grouped(*scales)] == ["0.5", "2.0", "10.0", "0.0"]


def test_only_positive_controls_are_named_by_their_gain():
    groups = grouped(options(sparsity=0.1), options(sparsity=0.2), options(sparsity=0.1, positive_control=2.0))
    assert [group.name for group in groups] == ["sparsity=0.1", "sparsity=0.2", "positive_control=2.0, sparsity=0.1"]


def test_the_verdict_is_about_treated_runs_or_else_about_their_controls():
    groups = [Group(role, role, ()) for role in (SHAM, "positive_control", TREATED)]
    assert [group.role for group in deciding_groups(groups)] == [TREATED]
    assert [group.role for group in deciding_groups(groups[:2])] == ["positive_control"]
    assert [group.role for group in deciding_groups(groups[:1])] == [SHAM]
    assert deciding_groups([]) == []


def checks(runs: list[Run], invalid: dict[str, str] | None = None) -> dict[str, str | None]:
    return {group.role: group.check for group in judge_runs(runs, invalid or {}).groups}


def test_honest_sham_runs_pass_the_check():
    assert checks(study(6, twins=True, **STUDY)) == {TREATED: None, SHAM: "passes"}


def test_sham_runs_that_show_an_effect_fail_the_check_and_the_study_with_it():
    treated = study(6, **STUDY, awakening=1.5, divergence=0.5)
    shams = renamed("sham ", study(6, **STUDY, awakening=0.7), perturbation_scale=0.0)
    verdict = judge_runs([*treated, *shams], {})
    assert {group.role: group.check for group in verdict.groups} == {TREATED: None, SHAM: "fails"}
    assert {claim.reason for claim in verdict.headlines.values()} == {Reason.SHAM_RUNS_SHOW_AN_EFFECT}
    assert verdict.status == INVALID


def test_few_or_scattered_sham_runs_leave_the_check_undecided():
    wide = renamed("sham ", study(6, **STUDY, spread=0.6), perturbation_scale=0.0)
    assert checks(wide) == {SHAM: "undecided"}


def test_copies_pass_no_check():
    """Six copies of one sham run have an interval of no width, inside every margin."""
    one = simulated_run(**STUDY, spread=0.0, sd=0.01, facts=study(1, **STUDY)[0].facts)
    copies = [named(one, f"copy {seed}", seed=seed, perturbation_scale=0.0) for seed in range(6)]
    assert checks(copies) == {SHAM: "undecided"}


def test_a_positive_control_is_found_or_not():
    for gain, check in ((1.5, "found"), (1.0, "not_found")):
        runs = [named(run, run.id, positive_control=1.5) for run in study(6, **STUDY, awakening=gain)]
        assert checks(runs) == {"positive_control": check}


def test_sham_runs_alone_are_never_supported():
    runs = renamed("sham ", study(6, **STUDY, awakening=1.5, divergence=0.5), perturbation_scale=0.0)
    verdict = judge_runs(runs, {})
    assert SUPPORTED not in {claim.status for claim in verdict.controlled.claims}
    honest = judge_runs(renamed("sham ", study(6, **STUDY), perturbation_scale=0.0), {})
    assert {claim.reason for claim in honest.headlines.values()} == {Reason.NOTHING_PERTURBED}


def test_several_groups_are_judged_apart_and_their_claims_combined():
    runs = [
        *renamed("a", study(6, **STUDY, awakening=1.5), width=2),
        *renamed("b", study(6, **STUDY), width=4),
        *renamed("c", study(2, **STUDY), width=6),
    ]
    verdict = judge_runs(runs, {})
    assert [group.claims[0].status for group in verdict.groups] == [SUPPORTED, REFUTED, INCONCLUSIVE]
    claim = verdict.headlines["awakening"]
    assert (claim.status, claim.reason, claim.estimate, claim.units) == (REFUTED, Reason.GROUPS_DIFFER, None, None)
    assert claim.headline == "The experiments differ: 1 supported, 1 refuted, 1 inconclusive"
    assert claim.because.startswith("3 experiments are judged apart: width=2: supported; width=4: refuted")
    assert claim.because.endswith("supported in some of them, corrected for 3 experiments: width=2")


def test_groups_that_agree_say_so_without_a_correction():
    runs = [run for n in (2, 4) for run in renamed(f"{n} ", study(6, **STUDY, awakening=1.5), width=n)]
    claim = judge_runs(runs, {}).headlines["awakening"]
    assert (claim.status, claim.reason) == (SUPPORTED, Reason.SAME_IN_EVERY_GROUP)
    assert claim.headline == "Supported in each of 2 experiments"
    assert "corrected" not in claim.because


STATUSES = (SUPPORTED, REFUTED, INCONCLUSIVE, CONFOUNDED, INVALID)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STATUSES), st.floats(0, 0.2)), min_size=2, max_size=30))
def test_claims_over_groups_name_supported_ones_that_a_correction_leaves(drawn):
    groups = [
        Group(f"n={n}", TREATED, (), claims=(Claim("awakening", status, "so"),), p={"awakening": p})
        for n, (status, p) in enumerate(drawn)
    ]
    claim = combine_groups("awakening", groups, Thresholds())
    assert claim.status == combine_statuses([status for status, _ in drawn])
    assert len(claim.headline.split()) <= 14
    surely = [
        f"n={n}"
        for n, ((status, _), p) in enumerate(zip(drawn, holm([p for _, p in drawn]), strict=True))
        if status == SUPPORTED and p <= 0.05
    ]
    named = claim.because.partition("experiments: ")[2]
    assert named == (", ".join(surely[:5]) if claim.status != SUPPORTED else "")


def test_in_some_of_many_null_groups_support_is_rare():
    """With twenty groups of a true effect at the margin, one in three studies would name one without a correction."""
    rng = np.random.default_rng(0)
    wrong = [0, 0]
    for _ in range(300):
        x = rng.normal(np.log(1.1), 0.1, (20, 6))
        t = (x.mean(axis=1) - np.log(1.1)) / (x.std(axis=1, ddof=1) / np.sqrt(6))
        p = 2 * stats.t.sf(t, 5)
        wrong[0] += bool((p[t > 0] <= 0.05).any())
        wrong[1] += min(holm(np.where(t > 0, p, 1.0))) <= 0.05
    assert wrong[0] / 300 > 0.3
    assert wrong[1] / 300 < 0.05


def test_the_values_of_a_group_are_those_of_its_claims():
    group = judge_runs(study(6, probed_run, bottom=0.3), {}).groups[0]
    values = [one["bottom"] for one in group.values["awakening"].values()]
    assert np.exp(np.mean(values)) == pytest.approx(group.claims[0].estimate)
    assert set(group.values["divergence"]["0"]) == {"size", "direction"}
