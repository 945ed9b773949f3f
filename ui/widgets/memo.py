"""A memo of charts and other slow results of a judgement, so that going back to a page is quick."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from validation.judgement.judge import Judgement

MAX_PER_JUDGEMENT = 24  # results; the oldest goes first, and all go with their judgement
_MEMO: WeakKeyDictionary[Judgement, dict[Hashable, Any]] = WeakKeyDictionary()

T = TypeVar("T")


def memoized(judgement: Judgement, key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` returned for this judgement and key before, or call it now."""
    results = _MEMO.setdefault(judgement, {})
    if key not in results:
        result = make()
        while len(results) >= MAX_PER_JUDGEMENT:
            results.pop(next(iter(results)), None)
        results[key] = result
    found: T = results[key]
    return found
