"""What is slow to make of a judgement and is always the same: kept, for who goes back and forth between pages."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from validation.judgement.judge import Judgement

MAX_PER_JUDGEMENT = 24  # of one judgement, the oldest goes first; all go with it
_MEMO: WeakKeyDictionary[Judgement, dict[Hashable, Any]] = WeakKeyDictionary()

T = TypeVar("T")


def memoized(judgement: Judgement, key: Hashable, make: Callable[[], T]) -> T:
    """What `make` made for this judgement and key before, or makes now."""
    own = _MEMO.setdefault(judgement, {})
    if key not in own:
        made = make()
        while len(own) >= MAX_PER_JUDGEMENT:
            own.pop(next(iter(own)), None)
        own[key] = made
    found: T = own[key]
    return found
