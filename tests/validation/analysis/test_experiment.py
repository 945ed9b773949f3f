"""Experiments over seeds and of one run, compared to the slow effects and to SciPy's intervals over them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from prismatic.contract.thresholds import Thresholds
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import simulated_run, study
from tests.support.slow_effects import effect, expert_levels, over_time, slowly
from validation.analysis.cohort import Cohort, MeasuredRun, measure_run
from validation.analysis.effects import BOTTOM, DIRECTION, SIZE, TIER_SIZES
from validation.analysis.experiment import effects_of_shams, measure
from validation.analysis.measurements import Measurements
from validation.analysis.run import Run

THRESHOLDS = Thresholds()
EFFECT = {"bottom": 0.2, "size": -0.2, "direction": 0.1}


def measured(runs: list[Run]) -> list[MeasuredRun]:
    return [measure_run(run, THRESHOLDS) for run in runs]


def experiment(runs: list[Run], beside: list[Run] = (), invalid: tuple[str, ...] = ()) -> Measurements:
    """Return the measurements of runs of one group, judged together with others."""
    members, others = measured(runs), measured([*beside])
    cohort = Cohort([*members, *others], invalid)
    return measure(members, cohort, THRESHOLDS, effects_of_shams(members, cohort, THRESHOLDS))


def parted(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """Return the treated runs of a study and its sham runs."""
    return [run for run in runs if not run.is_sham], [run for run in runs if run.is_sham]


def of_source(run: Run, source: str):
    return slowly(run.from_source(source) if source == "merged" else run.isolated)


def assert_as_slow(m: Measurements, runs: list[Run], twins: list[Run] | None = None) -> None:
    """Compare every effect over seeds, and its interval, with the slow effects and SciPy's t interval."""
    for name, found in m.effects.items():
        pairs = zip(runs, twins or [None] * len(runs), strict=True)
        x_S3 = [
            over_time(effect(of_source(run, m.source), name, twin and of_source(twin, m.source))) for run, twin in pairs
        ]
        assert found.x_U3 == pytest.approx(np.array(x_S3))
        whole = [x[0] for x in x_S3]
        expected = stats.ttest_1samp(whole, 0).confidence_interval(0.95)
        interval = found.interval(0.05)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("reliability", [0.5, None], ids=["half products", "plain"])
@pytest.mark.parametrize("probe", [True, False], ids=["isolated", "merged"])
def test_a_study_over_seeds_is_the_mean_of_its_runs_with_students_interval(probe, reliability):
    runs = study(6, probed_run, probe=probe, reliability=reliability, **EFFECT)
    m = experiment(runs)
    assert (m.units, m.units_needed, m.single, m.control, m.twins) == (6, 6, False, "control_expert", False)
    assert (m.source, m.corrected) == ("isolated" if probe else "merged", probe and reliability is not None)
    assert set(m.effects) == {BOTTOM, SIZE, DIRECTION}
    assert_as_slow(m, runs)


def test_the_sham_run_of_the_same_seed_is_subtracted_from_each_run():
    treated, shams = parted(study(6, probed_run, twins=True, **EFFECT))
    m = experiment(treated, shams[::-1])
    assert (m.control, m.twins, m.units) == ("control_expert", True, 6)
    assert_as_slow(m, treated, shams)


def test_sham_runs_are_subtracted_from_all_runs_or_from_none():
    treated, shams = parted(study(6, probed_run, twins=True, **EFFECT))
    m = experiment(treated, shams[1:])
    assert not m.twins
    assert_as_slow(m, treated)


def test_without_control_experts_the_same_experts_of_the_sham_run_are_the_control():
    treated, shams = parted(study(6, probed_run, twins=True, control=0, **EFFECT))
    m = experiment(treated, shams)
    assert (m.control, m.twins) == ("sham_run", True)
    assert_as_slow(m, treated, shams)


def test_a_difference_to_the_clean_expert_is_shown_without_being_a_comparison():
    m = experiment(study(6, probed_run, control=0, bottom=0.3))
    assert m.control is None
    assert m.effects[BOTTOM].interval(0.05).mid == pytest.approx(0.3, abs=0.05)


def test_the_clean_expert_is_the_control_of_frozen_routing():
    assert experiment(study(6, probed_run, control=0, config={"routing": "frozen"})).control == "frozen_routing"
    assert experiment(study(6, probed_run, control=1, config={"routing": "frozen"})).control == "control_expert"


def test_a_sham_run_with_other_experts_or_other_columns_is_no_twin():
    treated, shams = parted(study(6, probed_run, twins=True))
    fewer = replace(
        shams[0], layers=shams[0].layers[:1], isolated=replace(shams[0].isolated, layers=shams[0].isolated.layers[:1])
    )
    for other in (fewer, probed_run(seed=0, noise_seed=5, reliability=None, facts=shams[0].facts)):
        assert not experiment(treated, [other, *shams[1:]]).twins
    assert experiment(treated, shams).twins


def test_runs_are_judged_by_isolated_gradients_all_or_none():
    runs = study(6, probed_run)
    runs[2] = replace(runs[2], isolated=None)
    m = experiment(runs)
    assert m.source == "merged"
    assert_as_slow(m, runs)


def test_a_probe_that_plans_less_than_a_row_in_each_bin_leaves_the_merged_gradients():
    runs = study(6, probed_run)
    rare = [replace(run, isolated=replace(run.isolated, facts={**run.facts, "config.probe_freq": 300})) for run in runs]
    assert experiment(rare).source == "merged"


def test_corrected_and_plain_directions_are_not_averaged():
    runs = study(6, probed_run)
    runs[0] = study(1, probed_run, reliability=None)[0]
    m = experiment(runs)
    assert set(m.effects) == {BOTTOM}
    assert (m.corrected, m.unclear) == (False, False)


def test_noise_in_one_run_leaves_the_direction_of_none():
    runs = study(6, probed_run)
    noisy = np.where(np.arange(120) < 40, 0.5, 0.02)
    runs[0] = study(1, probed_run, reliability=noisy)[0]
    m = experiment(runs)
    assert set(m.effects) == {BOTTOM}
    assert (m.corrected, m.unclear) == (True, True)


def test_files_without_directions_are_judged_by_the_sizes_of_their_tiers():
    m = experiment(study(6, control=2, perturbed=2))
    assert set(m.effects) == {BOTTOM, *TIER_SIZES}
    assert m.control_direction is None
    assert not m.unclear


@pytest.mark.parametrize("source", ["isolated", "merged"])
def test_one_run_is_measured_by_its_experts_with_welchs_interval(source):
    run = probed_run(perturbed=4, control=3, probe=source == "isolated", **EFFECT)
    m = experiment([run])
    assert (m.single, m.units, m.units_needed, m.control) == (True, 3, 3, "control_expert")
    for name, found in m.effects.items():
        levels = expert_levels(of_source(run, source), name)
        x, y = ([over_time(levels[e])[0] for e in experts] for experts in (range(1, 5), range(5, 8)))
        assert (found.x_U3[:, 0], found.y_V3[:, 0]) == (pytest.approx(x), pytest.approx(y))
        expected = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
        interval = found.interval(0.05)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_one_run_with_its_sham_run_is_measured_beyond_it():
    run, sham = study(1, probed_run, twins=True, **EFFECT)
    m = experiment([run], [sham])
    assert m.twins
    own, other = (expert_levels(of_source(one, "isolated"), BOTTOM) for one in (run, sham))
    difference = [over_time([a - b for a, b in zip(own[e], other[e], strict=True)]) for e in range(1, 4)]
    assert m.effects[BOTTOM].x_U3 == pytest.approx(np.array(difference))


def test_the_clean_expert_is_no_unit_of_one_run():
    assert experiment([probed_run(control=0, facts={"config.routing": "frozen"})]).units == 0


def test_runs_without_a_verdict_are_left_out_and_counted():
    runs = study(7, probed_run, **EFFECT)
    m = experiment(runs, invalid=("3",))
    assert (m.runs, m.without_verdict, m.units, m.valid) == (7, 1, 6, ("0", "1", "2", "4", "5", "6"))
    assert_as_slow(m, [run for run in runs if run.id != "3"])
    none = experiment(runs, invalid=tuple("0123456"))
    assert (none.without_verdict, none.units, none.effects) == (7, 0, {})


def test_margins_are_the_thresholds_on_the_scale_of_the_levels():
    thresholds = Thresholds(awakening_ratio=1.2, divergence_ratio=1.3, divergence_direction=0.07)
    runs = [measure_run(run, thresholds) for run in study(6, probed_run)]
    m = measure(runs, Cohort(runs), thresholds, {})
    margins = {name: (one.margin, one.two_sided) for name, one in m.effects.items()}
    assert margins == {BOTTOM: (math.log(1.2), False), SIZE: (math.log(1.3), True), DIRECTION: (0.07, False)}


def test_the_sham_runs_of_a_group_are_its_check():
    treated, shams = parted(study(6, probed_run, twins=True, **EFFECT))
    m = experiment(treated, shams)
    for name, found in m.sham_effects.items():
        expected = [over_time(effect(of_source(sham, "isolated"), name)) for sham in shams]
        assert found.x_U3 == pytest.approx(np.array(expected))
    assert set(m.sham_effects) == {BOTTOM, SIZE, DIRECTION}
    assert experiment(treated, shams[:5]).sham_effects == {}
    assert experiment(treated, shams, invalid=("sham 0",)).sham_effects == {}


def test_two_sham_runs_of_one_seed_are_one_unit_of_the_check():
    treated, shams = parted(study(6, probed_run, twins=True))
    again = study(6, probed_run, scale=0.001)
    m = experiment(treated, [*shams, *(replace(run, id=f"again {run.id}") for run in again)])
    assert {len(one.x_U3) for one in m.sham_effects.values()} == {6}


def test_the_check_reads_the_gradients_that_its_group_is_judged_by():
    treated, shams = parted(study(6, probed_run, twins=True))
    broken = [replace(treated[0], isolated=None), *treated[1:]]
    for runs in (broken, broken[::-1]):
        m = experiment(runs, shams)
        expected = [over_time(effect(of_source(sham, "merged"), BOTTOM)) for sham in shams]
        assert m.sham_effects[BOTTOM].x_U3 == pytest.approx(np.array(expected))


@pytest.mark.parametrize(("control", "twins"), [(3, False), (0, True)])
def test_the_direction_of_unperturbed_experts_shows_how_much_a_direction_can_say(control, twins):
    treated, shams = parted(study(6, probed_run, twins=True, control=control))
    m = experiment(treated, shams if twins else [])
    role, runs = ("control", treated) if control else ("perturbed", shams)
    levels = [expert_levels(of_source(run, "isolated"), DIRECTION) for run in runs]
    experts = [e for e, one in treated[0].experts.items() if one.role == role]
    means = [np.mean([over_time(of[e])[0] for e in experts]) for of in levels]
    assert m.control_direction.margin == THRESHOLDS.saturated
    assert m.control_direction.x_U3[:, 0] == pytest.approx(means)


def test_means_over_layers_alone_are_known_also_without_their_rows():
    many, one = (study(6, perturbed=2, control=2, config={"num_layers": n}) for n in (2, 1))
    for runs, hidden in ((many, True), (one, False), (study(6, probed_run, config={"num_layers": 2}), False)):
        members = [each.without_rows() for each in measured(runs)]
        assert measure(members, Cohort(members), THRESHOLDS, {}).means_only is hidden
        assert experiment(runs).means_only is hidden


def test_a_common_gradient_counts_in_merged_gradients_only():
    common = study(6, collinear=True)
    assert experiment(common).common_gradients == 6
    isolated = [replace(run, isolated=probed_run(seed=s).isolated) for s, run in enumerate(common)]
    assert experiment(isolated).common_gradients == 0


@pytest.mark.parametrize(
    ("mixture", "probe", "noisy"), [("parameters", False, False), ("top_k", False, True), ("top_k", True, False)]
)
def test_uncorrected_directions_on_separate_batches_are_noisy(mixture, probe, noisy):
    runs = study(6, probed_run, probe=probe, reliability=None, facts={"mixture": mixture})
    assert experiment(runs).noisy is noisy


def until(run: Run, step: int, gone: tuple[int, int] = (0, 0)) -> Run:
    """Return the run so far, without the rows of some steps."""

    def cut(run: Run) -> Run:
        keep = (run.steps < step) & ~((run.steps >= gone[0]) & (run.steps < gone[1]))
        layers = [
            {e: replace(one, columns={n: c[keep] for n, c in one.columns.items()}) for e, one in layer.items()}
            for layer in run.layers or [run.experts]
        ]
        return replace(run, steps=run.steps[keep], experts=layers[0], layers=layers if run.layers else ())

    return replace(cut(run), isolated=run.isolated and cut(run.isolated))


@pytest.mark.parametrize(
    ("step", "bins", "share"),
    [(200, 0, 0.25), (235, 0, 0.25), (236, 2, 0.25), (415, 2, 0.25), (416, 4, 0.25), (595, 4, 0.25), (596, 6, 1.0)],
)
def test_unfinished_runs_are_judged_at_two_and_four_bins(step, bins, share):
    """A run of 600 steps has bins of 90 steps after the first 60, and logs every fifth."""
    runs = study(6, probed_run, **EFFECT)
    m = experiment([until(run, step) for run in runs])
    assert (m.bins, m.alpha) == (bins, pytest.approx(0.05 * share))
    for name, one in m.effects.items():
        expected = [np.mean(effect(of_source(run, "isolated"), name)[:bins]) for run in runs]
        assert one.x_U3[:, 0] == pytest.approx(expected)
    assert bool(m.effects) == bool(bins)


def test_the_run_that_is_behind_sets_the_look():
    runs = study(6, probed_run)
    assert experiment([until(runs[0], 430), *runs[1:]]).bins == 4
    treated, shams = parted(study(6, probed_run, twins=True))
    assert experiment(treated, [until(shams[0], 250), *shams[1:]]).bins == 2


def test_a_run_and_its_sham_run_without_a_common_bin_show_nothing():
    """At the first look, the run lacks the first bin and its sham run the second."""
    treated, shams = parted(study(6, probed_run, twins=True))
    m = experiment([until(run, 300, (60, 150)) for run in treated], [until(run, 300, (150, 240)) for run in shams])
    assert (m.bins, m.twins, m.effects) == (2, True, {})


def test_a_run_of_few_planned_rows_is_said_to_be_one():
    assert not experiment(study(6, probed_run, every=120, steps=600)).planned_rows
    assert experiment(study(6, probed_run, every=80, steps=600)).planned_rows


def test_a_clean_or_perturbed_expert_is_needed():
    run = simulated_run(facts={"config.merge": "example"})
    for role in ("clean", "perturbed"):
        experts = {e: one for e, one in run.experts.items() if one.role != role}
        m = experiment([replace(run, experts=experts)])
        assert (m.units, m.without_verdict, m.effects) == (0, 1, {})


@pytest.mark.parametrize(
    ("of_layers", "opposed"), [((0.5, -0.5), True), ((0.5, 0.0), False), ((0.5, 0.5), False), ((0.0, 0.0), False)]
)
def test_layers_on_opposite_sides_are_noticed(of_layers, opposed):
    """Of each run, the perturbed experts' level of an effect is raised in one layer and lowered in another."""
    gains = np.array(of_layers)[None, :, None]
    runs = []
    for each in measured(study(6, probed_run, layers=2)):
        perturbed = (np.array(each.isolated.roles) == "perturbed")[:, None, None]
        runs.append(
            replace(
                each,
                isolated=replace(each.isolated, of={n: v + gains * perturbed for n, v in each.isolated.of.items()}),
            )
        )
    m = measure(runs, Cohort(runs), THRESHOLDS, {})
    for name, found in m.effects.items():
        assert (found.opposed is not None) is opposed, name
        if opposed:
            assert found.opposed == pytest.approx((-0.5, 0.5), abs=0.2)


def test_a_look_sees_no_routing_share_of_later_bins():
    """Shares that part after the look are no difference yet."""
    runs = []
    for each in measured(study(6, simulated_run, perturbed=3, control=3)):
        levels = each.merged
        perturbed = (np.array(levels.roles) == "perturbed")[:, None, None]
        late = np.where(np.arange(6) >= 2, -3.0, 0.0) * perturbed
        shares = np.zeros_like(levels.of[BOTTOM]) + late
        bins = replace(levels.bins, complete=3)
        runs.append(replace(each, merged=replace(levels, bins=bins, load_ELK=shares)))
    m = measure(runs, Cohort(runs), THRESHOLDS, {})
    assert (m.bins, m.source) == (2, "merged")
    assert m.load.x_U3[:, 0] == pytest.approx(np.zeros(6))
