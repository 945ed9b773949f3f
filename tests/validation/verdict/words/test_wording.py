"""The numbers of a claim in words: what is needed, and what an estimate is compared with."""

from validation.analysis.effects import DIRECTION, SIZE
from validation.verdict.claims import REFUTED, Claim, Reason
from validation.verdict.words.wording import COSINE, KEPT, RATIO, needed, over_experiments, placed, quantity


def claim(**numbers) -> Claim:
    return Claim("divergence", REFUTED, "", Reason.INSIDE_MARGIN, **numbers)


def test_a_share_that_must_stay_has_one_side_though_a_size_has_two():
    assert needed(claim(effect=SIZE, unit=RATIO, threshold=1.1)) == "below 0.91x or above 1.10x"
    assert needed(claim(effect=SIZE, unit=KEPT, threshold=0.5)) == "more than 50%"


def test_a_direction_without_a_control_is_compared_with_the_clean_expert():
    controlled = claim(effect=DIRECTION, unit=COSINE, estimate=-0.003, control="control_expert")
    assert (placed(controlled), quantity(controlled)) == (
        "0.003 below the control",
        "direction difference from the control",
    )
    alone = claim(effect=DIRECTION, unit=COSINE, estimate=0.003)
    assert (placed(alone), quantity(alone)) == ("+0.003", "direction difference from the clean expert")


def test_experiments_have_a_range_only_if_one_reason_decides_all():
    one, two = (claim(effect=SIZE, threshold=1.1, estimate=x, low=x - 0.01, high=x + 0.01, units=6) for x in (0.98, 1))
    assert over_experiments([two, one]) == "the size of the gradients is 0.98x to 1.00x, and 1.10x is ruled out in each"
    assert over_experiments([one, one]) == "the size of the gradients is 0.98x, and 1.10x is ruled out in each"
    assert over_experiments([one, claim(effect=DIRECTION, unit=COSINE, estimate=0.1, low=0.0, high=0.2)]) == ""
    assert over_experiments([]) == ""
