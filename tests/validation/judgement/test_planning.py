"""The seeds that an effect needs: the published table, a second implementation, and what runs show."""

import numpy as np
import pytest
from scipy import stats

from prismatic.contract.power import POWER, SEEDS_FOR_POWER, SPREADS
from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import study
from tests.validation.judgement.gate.conftest import judged
from validation.analysis.intervals import smallest_effect
from validation.judgement.planning import plan_seeds, spread_of

DEFAULTS = Thresholds()


def test_the_published_table_is_what_is_planned():
    for effect, seeds in SEEDS_FOR_POWER.items():
        plan = plan_seeds("bottom", effect, thresholds=DEFAULTS)
        assert (plan.decides, plan.power) == ("supported", POWER)
        assert tuple(row.seeds for row in plan.spreads) == seeds
        assert tuple(row.spread for row in plan.spreads) == SPREADS


@pytest.mark.parametrize(("seeds", "alpha"), [(6, 0.05), (12, 0.025)])
def test_the_smallest_effect_is_found_with_the_planned_power(seeds, alpha):
    """By drawing experiments in which the effect is exactly that large."""
    effect = smallest_effect(0.15, np.log(1.1), alpha=alpha, seeds=seeds)
    rng = np.random.default_rng(0)
    x_ES = rng.normal(effect, 0.15, size=(20_000, seeds))
    low = x_ES.mean(1) - stats.t.ppf(1 - alpha / 2, seeds - 1) * x_ES.std(1, ddof=1) / np.sqrt(seeds)
    assert (low > np.log(1.1)).mean() == pytest.approx(POWER, abs=0.04)


def test_an_effect_within_its_margin_is_refuted_at_the_whole_alpha():
    size = plan_seeds("size", 1.0, spreads=(0.1,), thresholds=DEFAULTS)
    direction = plan_seeds("direction", 0.0, spreads=(0.1,), thresholds=DEFAULTS)
    assert (size.decides, size.alpha, size.claim, size.unit) == ("refuted", 0.05, "divergence", "ratio")
    assert (direction.decides, direction.margin, direction.unit) == ("refuted", 0.05, "1 - cosine")
    halved = plan_seeds("size", 0.5, spreads=(0.1,), thresholds=DEFAULTS)
    assert (halved.decides, halved.alpha) == ("supported", 0.025)  # one of two effects suffices
    assert plan_seeds("size", 1.1, spreads=(0.1,), thresholds=DEFAULTS).spreads[0].seeds is None


def test_runs_show_how_an_effect_varies():
    judgement = judged(study(6, twins=True, steps=60, control=1, awakening=1.3))
    values = [parts["bottom"] for parts in judgement.verdict.groups[0].values["awakening"].values()]
    assert spread_of(judgement, "bottom") == pytest.approx(np.std(values, ddof=1))
    assert spread_of(judged(study(2, steps=60, control=1)), "bottom") is None
