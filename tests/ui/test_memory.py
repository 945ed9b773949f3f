"""What pages keep of a judgement: made once, the oldest goes first, and all go with the judgement and its session."""

import gc
import weakref

import pytest

from tests.pages.test_pages import EXAMPLES, opened
from ui.layout.frame import PAGES
from ui.session import library
from ui.widgets.memo import MAX_PER_JUDGEMENT, memoized
from validation.judgement.judge import judge


class Made:
    """Something that is slow to make."""


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


def test_a_session_that_has_been_gone_for_long_is_closed_and_no_other(monkeypatch):
    gone, here = (library.Library([library.Source(EXAMPLES / "as-is.db", "as-is")]) for _ in range(2))
    monkeypatch.setattr(library, "_OPEN", {"gone": gone, "here": here})
    library.close_disconnected(lambda session: session == "here", 1e9)
    assert gone.sources
    library.close_disconnected(lambda session: session == "here", 0)
    assert not gone.sources
    assert here.sources


@pytest.mark.parametrize("page", PAGES)
def test_no_page_holds_what_a_closed_session_had_read(page):
    at = opened(page, (EXAMPLES / "as-is.db", "as-is"))
    assert not at.exception
    own = at.session_state["library"]
    judgement = weakref.ref(own.judged(own.keys(), ()))
    assert judgement() is not None
    own.close()
    gc.collect()
    assert judgement() is None
