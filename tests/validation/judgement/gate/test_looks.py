"""Plans that runs registered, and the alpha of a look at them."""

import math

import pytest
from scipy import stats

from tests.validation.judgement.gate.conftest import judged, registered
from validation.judgement.gate.experiment import experiments_of
from validation.judgement.gate.looks import plans_of, share_of


def test_the_shares_of_all_looks_add_up_to_two():
    assert [share_of(look) for look in (1, 2, 3)] == pytest.approx([1, 1 / 2, 1 / 6])
    assert sum(map(share_of, range(1, 10_000))) == pytest.approx(2, abs=1e-3)
    assert sum(map(share_of, range(1, 10_000))) < 2


def test_each_plan_is_a_look_and_all_their_seeds_are_planned(made):
    runs = made(9, twins=False)
    plans = plans_of(registered(runs[:6], range(6)) + registered(runs[6:8], range(9)), 6)
    assert (plans.looks, plans.seeds, plans.missing, plans.unregistered) == (2, (*range(9),), (8,), ())
    assert plans_of(registered(runs[:6], range(6)), 6).looks == 1


@pytest.mark.parametrize("plan", [None, [6], [6, 7], range(7, 13)], ids=["none", "alone", "few", "of others"])
def test_a_run_belongs_to_a_plan_of_enough_seeds_with_its_own(made, plan):
    runs = made(9, twins=False)
    extra = runs[6:7] if plan is None else registered(runs[6:7], plan)
    plans = plans_of(registered(runs[:6], range(6)) + extra, 6)
    assert plans.unregistered == ("6",)
    assert plans.looks == 1


def test_the_second_look_is_at_half_of_alpha(made):
    runs = made(8, awakening=1.5)
    both = [registered([run], range(6) if run.seed < 6 else range(8))[0] for run in runs]
    (first,), (second,) = (experiments_of(judged(some), "awakening") for some in (registered(runs, range(8)), both))
    assert (first.thresholds.alpha, second.thresholds.alpha) == (0.05, 0.025)
    values = [parts["bottom"] for parts in second.group.values["awakening"].values()]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.975)
    found = second.claim.components[0]
    assert (found.low, found.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert first.claim.low > found.low
