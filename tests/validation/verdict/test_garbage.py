"""Damaged and hostile runs: measuring and deciding neither raise nor warn, and say no number that is none."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from prismatic.contract.schema import MIXTURES, ROLES
from prismatic.contract.thresholds import Thresholds
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import named, simulated_run, study
from validation.analysis.cohort import Cohort, measure_run
from validation.analysis.run import METRICS, Expert, Run
from validation.judgement.judge import combine_judgements, judge_each
from validation.judgement.layer_ablation import ablate_layers
from validation.verdict.claims import SUPPORTED
from validation.verdict.decide import Verdict, judge_runs

THOROUGH = settings(
    derandomize=True,
    deadline=None,
    max_examples=120,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def decided(runs: list[Run], invalid: dict[str, str] | None = None) -> Verdict:
    """Return the verdict and ablate its layers, with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = judge_runs(runs, invalid or {})
        measured = [measure_run(run, Thresholds()) for run in runs]
        for group in verdict.groups:
            ablate_layers([each for each in measured if each.run.id in group.runs], Cohort(measured), Thresholds())
    for claim in (*verdict.controlled.claims, *verdict.as_written.claims):
        words = f"{claim.because} {claim.headline}"
        assert "nan" not in words.split()
        assert "nanx" not in words
        numbers = (
            claim.estimate,
            claim.low,
            claim.high,
            *(n for p in claim.components for n in (p.estimate, p.low, p.high)),
        )
        assert all(number is None or math.isfinite(number) for number in numbers)
    for group in verdict.groups:
        assert all(
            math.isfinite(value) for of in group.values.values() for run in of.values() for value in run.values()
        )
        assert all(0 <= p <= 1 for p in group.p.values())
    return verdict


SCALARS = st.one_of(
    st.none(),
    st.sampled_from(
        (
            0,
            -1,
            1,
            10,
            1e15,
            -1e15,
            10**18,
            10**400,
            1e300,
            math.nan,
            math.inf,
            "x",
            "",
            "7",
            "1e9",
            True,
            [1],
            {"a": 1},
        )
    ),
)
NUMERIC = ("planned_steps", "log_freq", "warmup_steps", "config.log_freq", "config.probe_freq", "config.seed")
OPTIONS = ("perturbation_scale", "positive_control", "sparsity", "num_layers", "merge", "device", "control_experts")
CHOICES = {
    "mixture": st.sampled_from((*MIXTURES, "x", None)),
    "config.routing": st.sampled_from(("frozen", "learned")),
}
FACTS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys((*NUMERIC, *(f"config.{name}" for name in OPTIONS)), SCALARS) | CHOICES
)
NUMBERS = st.sampled_from(
    (
        0.0,
        1.0,
        1.0,
        1.0,
        -1.0,
        0.3,
        1e-3,
        1e-300,
        5e-324,
        1e40,
        1e60,
        1e154,
        1e300,
        1.7e308,
        math.nan,
        math.inf,
        -math.inf,
    )
)
STEPS = st.one_of(
    st.lists(st.integers(0, 200), max_size=30),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6),
    st.integers(0, 40).map(lambda rows: list(range(rows))),
)


@st.composite
def columns(draw, rows: int):
    """Return every metric: plausible values, one value, or a few values at random."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    found = {}
    for name in METRICS:
        kind = draw(st.sampled_from(("honest", "honest", "absent", "one", "some")))
        if kind == "honest":
            found[name] = np.exp(rng.normal(0, 0.1, rows))
        elif kind == "absent":
            found[name] = np.full(rows, np.nan)
        elif kind == "one":
            found[name] = np.full(rows, draw(NUMBERS))
        else:
            found[name] = rng.choice([draw(NUMBERS) for _ in range(3)], rows)
    return found


@st.composite
def places(draw, rows: int, experts: list[int]):
    """Return some experts with any roles; the clean one may be missing."""
    kept = [e for e in experts if draw(st.integers(0, 19))]
    roles = {e: "clean" if e == 0 else draw(st.sampled_from(ROLES[1:])) for e in experts}
    return {e: Expert(e, roles[e], draw(columns(rows))) for e in kept}


@st.composite
def garbage(draw, number: int = 0) -> Run:
    """Return a run of which nothing can be relied on but its types."""
    experts = list(range(draw(st.sampled_from((0, 1, 3, 4, 5)))))

    def of_source(source: str, facts) -> Run:
        steps = np.array(draw(STEPS), dtype=np.int64)
        whole = draw(places(len(steps), experts))
        layers = [draw(places(len(steps), experts)) for _ in range(draw(st.integers(0, 2)))]
        return Run(f"r{number}", "x.db", steps, whole, layers=layers, source=source, facts=facts)

    facts = draw(FACTS)
    run = of_source("merged", facts)
    isolated = of_source("isolated", facts) if draw(st.booleans()) else None
    weights = draw(
        st.sampled_from(
            ({}, {"top": 1.0, "bottom": -2.0, "middle": 0.0}, {"top": 1e300, "bottom": 1e-300, "middle": 5.0})
        )
    )
    scales = draw(st.dictionaries(st.integers(0, 5), st.sampled_from((None, 0.0, 1.0, math.nan, 1e300)), max_size=3))
    return replace(run, isolated=isolated, weights=weights, scales=scales)


@THOROUGH
@given(garbage())
def test_a_run_of_garbage_is_judged_without_a_word_of_warning(run):
    decided([run])
    decided([run], {run.id: "broken"})


@settings(THOROUGH, max_examples=20)
@given(st.data())
def test_garbage_beside_honest_runs_is_judged_without_a_word_of_warning(data):
    honest = data.draw(st.sampled_from(HONEST))
    odd = [data.draw(garbage(number)) for number in range(2)]
    for place, one in enumerate(odd):
        if data.draw(st.booleans()):  # of one group with the others
            odd[place] = replace(
                one, facts={**honest[0].facts, "config.seed": data.draw(st.sampled_from((0, 50, None)))}
            )
    decided([*odd, *honest])
    decided([*honest, *odd], {"r0": "broken"})


HONEST = [study(6, probed_run, twins=True, steps=60, layers=2), study(3, steps=60)]


@settings(THOROUGH, max_examples=30)
@given(
    st.integers(0, 10**6),
    st.sampled_from(
        ("norm", "bottom_norm", "half_product", "half_product_clean", "direction", "routing_weight", "bottom_to_middle")
    ),
    NUMBERS,
    st.integers(0, 60),
)
def test_one_damaged_column_of_an_honest_study_supports_nothing(seed, name, value, rows):
    """However many rows of one expert hold a strange number, a null study is not supported for it."""
    runs = study(6, probed_run, steps=300)
    rng = np.random.default_rng(seed)
    for run in runs:
        place = run.isolated.layers[0][int(rng.integers(7))]
        place.columns[name][rng.choice(60, rows, replace=False)] = value
    assume(rows < 12)  # more are no damage, but another run
    verdict = decided(runs)
    assert SUPPORTED not in {claim.status for claim in verdict.headlines.values()}


def without_experts(run: Run, *experts: int) -> Run:
    return replace(run, experts={e: one for e, one in run.experts.items() if e not in experts})


def filled(run: Run, value: float) -> Run:
    experts = {
        e: replace(one, columns=dict.fromkeys(METRICS, np.full(len(run.steps), value)))
        for e, one in run.experts.items()
    }
    return replace(run, experts=experts)


BASE = simulated_run(perturbed=2, control=2, facts={"config.merge": "example"})
ODD = {
    "no rows": replace(
        filled(BASE, 1.0),
        steps=np.arange(0),
        experts={e: Expert(e, x.role, dict.fromkeys(METRICS, np.empty(0))) for e, x in BASE.experts.items()},
    ),
    "one row": simulated_run(steps=1, perturbed=2, control=2),
    "two rows": simulated_run(steps=2, perturbed=2, control=2),
    "no expert": without_experts(BASE, 0, 1, 2, 3, 4),
    "no clean expert": without_experts(BASE, 0),
    "no perturbed expert": without_experts(BASE, 1, 2),
    "clean expert alone": without_experts(BASE, 1, 2, 3, 4),
    "NaN everywhere": filled(BASE, math.nan),
    "zeros everywhere": filled(BASE, 0.0),
    "infinity everywhere": filled(BASE, math.inf),
    "ones everywhere": filled(BASE, 1.0),
    "largest numbers": filled(BASE, 1.7e308),
    "smallest numbers": filled(BASE, 5e-324),
    "layers without a common expert": replace(BASE, layers=[{0: BASE.experts[0]}, {1: BASE.experts[1]}]),
    "layers of different experts": replace(BASE, layers=[BASE.experts, without_experts(BASE, 2).experts]),
    "empty layers": replace(BASE, layers=[{}, {}]),
    "huge steps": replace(BASE, steps=BASE.steps + 2**62),
    "steps at both ends": replace(
        BASE, steps=np.sort(np.concatenate([BASE.steps[:300] + -(2**63), BASE.steps[300:] + 2**62]))
    ),
    "negative steps": replace(BASE, steps=BASE.steps - 10_000),
    "one step repeated": replace(BASE, steps=np.zeros(600, dtype=np.int64)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_runs_are_judged_alone_and_as_seeds_of_a_study(name):
    alone = decided([ODD[name]])
    assert SUPPORTED not in {claim.status for claim in alone.controlled.claims}
    seeds = [named(ODD[name], f"odd {seed}", seed=seed) for seed in range(6)]
    assert SUPPORTED not in {claim.status for claim in decided(seeds).controlled.claims}


@pytest.mark.parametrize("name", ODD)
def test_odd_runs_are_diagnosed_and_judged_to_the_end(name):
    runs = [ODD[name], *study(2, steps=60)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judgement = combine_judgements((), (), judge_each(runs, Thresholds()), Thresholds())
    assert "unexpected" not in {finding.id for finding in judgement.findings}
    assert len(judgement.verdict.controlled.of(ODD[name].id)) == 3


def test_thousands_of_experts_are_judged():
    run = simulated_run(steps=30, perturbed=1500, control=1500, awakening=1.5, rho=0.0)
    claim = decided([run]).headlines["awakening"]
    assert (claim.status, claim.units) == (SUPPORTED, 1500)


def test_hundreds_of_runs_in_one_group_are_judged():
    runs = study(300, steps=12, perturbed=1, control=1, awakening=1.5, rho=0.0)
    claim = judge_runs(runs, {}).headlines["awakening"]
    assert (claim.status, claim.units) == (SUPPORTED, 300)
