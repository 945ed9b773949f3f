"""An effect in its units: what is surely beyond a margin, what is left at the end, and the least favourable runs."""

import math

import numpy as np
import pytest
from scipy import stats

from validation.analysis.measurements import Effect

MARGIN = math.log(1.1)
SEEDS = np.array([0.30, 0.22, 0.26, 0.35, 0.28, 0.25])


def over_seeds(x_U=SEEDS, first=0.0, last=0.0, *, two_sided=False) -> Effect:
    return Effect("bottom", MARGIN, two_sided, np.stack([x_U, x_U + first, x_U + last], axis=1))


def in_one_run(x_U, y_V) -> Effect:
    return Effect("bottom", MARGIN, False, *(np.stack([v, v, v / 2], axis=1) for v in (np.array(x_U), np.array(y_V))))


def test_an_interval_is_of_the_whole_run_its_beginning_or_its_end():
    effect = over_seeds(first=1.0, last=-1.0)
    mids = [effect.interval(0.05, column).mid for column in range(3)]
    assert mids == pytest.approx([SEEDS.mean(), SEEDS.mean() + 1, SEEDS.mean() - 1])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("two_sided", [True, False])
def test_beyond_and_inside_ask_the_sides_that_count(sign, two_sided):
    far, near = over_seeds(sign * SEEDS, two_sided=two_sided), over_seeds(sign * SEEDS / 100, two_sided=two_sided)
    assert far.beyond(0.05) is (sign > 0 or two_sided)
    assert far.inside(0.05) is (sign < 0 and not two_sided)
    assert (near.beyond(0.05), near.inside(0.05)) == (False, True)


def test_an_early_effect_need_not_be_one_of_the_whole_run():
    effect = over_seeds(SEEDS / 100, first=0.3)
    assert (effect.early(0.05), effect.beyond(0.05)) == (True, False)


def test_what_is_kept_is_a_share_of_the_means_and_not_a_mean_of_shares():
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(0.3, 0.1, (6, 3)))
    assert Effect("bottom", MARGIN, False, x).kept(0.05).mid == pytest.approx(x[:, 2].mean() / x[:, 1].mean())
    one_run = in_one_run([0.9, 1.0, 1.1], [0.1, 0.2, 0.3])
    assert one_run.kept(0.05).mid == pytest.approx(0.5)


def test_p_is_that_of_the_effect_over_seeds_and_one_run_has_none():
    expected = stats.ttest_1samp(SEEDS, MARGIN)
    assert over_seeds().p() == pytest.approx(expected.pvalue)
    assert in_one_run([0.9, 1.0, 1.1], [0.1, 0.2, 0.3]).p() == 1.0


def test_runs_without_a_verdict_stand_at_the_ends_of_the_others_and_fade_or_grow():
    effect = over_seeds(first=SEEDS, last=0.1)
    worst = effect.with_least_favourable(2)
    ends = [(0.22, 0.44, 0.32), (0.35, 0.70, 0.45), (0.22, 0.70, 0.32), (0.35, 0.44, 0.45)]
    for one, end in zip(worst, ends, strict=True):
        assert one.x_U3[6:] == pytest.approx(np.array([end] * 2))
        assert one.x_U3[:6] == pytest.approx(effect.x_U3)
