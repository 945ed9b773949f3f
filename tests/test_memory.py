"""What pages keep of a judgement: made once, the oldest goes first, and all go with the judgement."""

import gc
import weakref

from ui.memory import KEPT, kept
from validation.judge import judge


class Made:
    """Something that is slow to make."""


def test_a_thing_is_made_once_for_each_judgement_and_key():
    one, other = judge([]), judge([])
    first = kept(one, "chart", Made)
    assert kept(one, "chart", Made) is first
    assert kept(one, "another", Made) is not first
    assert kept(other, "chart", Made) is not first


def test_the_oldest_goes_first_and_all_go_with_their_judgement():
    judgement = judge([])
    oldest, second = (weakref.ref(kept(judgement, number, Made)) for number in range(2))
    for number in range(2, KEPT + 1):
        kept(judgement, number, Made)
    assert oldest() is None
    assert second() is not None
    del judgement
    gc.collect()
    assert second() is None
