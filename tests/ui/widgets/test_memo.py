"""The memo: a result is made once, the oldest goes first, and all go with their judgement."""

import gc
import weakref

from ui.widgets.memo import MAX_PER_JUDGEMENT, memoized
from validation.judgement.judge import judge


class Made:
    """A result."""


def test_a_thing_is_made_once_for_each_judgement_and_key():
    one, other = judge([]), judge([])
    first = memoized(one, "chart", Made)
    assert memoized(one, "chart", Made) is first
    assert memoized(one, "another", Made) is not first
    assert memoized(other, "chart", Made) is not first


def test_the_oldest_goes_first_and_all_go_with_their_judgement():
    judgement = judge([])
    oldest, second = (weakref.ref(memoized(judgement, number, Made)) for number in range(2))
    for number in range(2, MAX_PER_JUDGEMENT + 1):
        memoized(judgement, number, Made)
    assert oldest() is None
    assert second() is not None
    del judgement
    gc.collect()
    assert second() is None
