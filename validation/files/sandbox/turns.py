"""Turns of the child processes that handle untrusted input: two work at once, and requesters come in turn.

Each child may take as much memory and time as its limits allow, so no more than two work at a time, whatever their
kind. A requester (a session of the app, a thread of a program) that was served longest ago comes first. A child that
has worked for its slice of time is ended if somebody waits, and begins anew, with twice the time, after those who
waited: so what takes long cannot keep others waiting, and still gets done. What nobody waits for any more is ended, and
so is a child that rests between two files.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

PLACES = 2
SLICE_SECONDS = 2.0
LOOKS_SECONDS = 0.05
REMEMBERED = 1000  # requesters whose last turn is known

T = TypeVar("T")


class TurnLost(Exception):
    """The child was ended, or not begun, because others need its place; begin again."""


class NobodyWaits(Exception):
    """The requester is gone, such as a session whose page was closed."""


@dataclass(frozen=True)
class Requester:
    """The one who waits for an answer."""

    name: str
    waits: Callable[[], bool] = lambda: True
    """False once nobody waits any more; called in any thread."""


REQUESTER: ContextVar[Requester | None] = ContextVar("requester", default=None)
"""The requester of this thread; None for the thread itself."""


def _requester() -> Requester:
    return REQUESTER.get() or Requester(f"thread {threading.get_ident()}")


@dataclass(eq=False)
class Turn:
    """The time that one child has."""

    slice: float
    """Seconds after which the child must give way to others."""
    requester: Requester
    began: float = 0.0
    lost: bool = False
    """True if the child was ended."""
    rests: bool = False
    """True while the child has nothing to do."""
    _end: Callable[[], object] | None = field(default=None, repr=False)

    def of(self, end: Callable[[], object]) -> None:
        """Say how to end the child, once it is started."""
        self._end = end

    def give_way(self) -> None:
        """End the child if it rests, its slice has passed, or nobody waits for it."""
        if self.rests or time.monotonic() - self.began > self.slice:
            self._lose()
        self.end_if_abandoned()

    def end_if_abandoned(self) -> None:
        """End the child if nobody waits for it."""
        if not self.requester.waits():
            self._lose()

    def _lose(self) -> None:
        if self._end and not self.lost:
            self.lost = True
            self._end()


class Turns:
    """The places for children, and who waits for one."""

    def __init__(self, places: int = PLACES) -> None:
        self._places = places
        self._changed = threading.Condition()
        self._running: list[Turn] = []
        self._waiting: list[Turn] = []
        self._last: dict[str, int] = {}
        self._count = itertools.count(1)

    def begin(self, slice_seconds: float = SLICE_SECONDS) -> Turn:
        """Wait for a place, and return the turn, to be finished. Raises NobodyWaits."""
        requester = _requester()
        turn = Turn(slice_seconds, requester)
        with self._changed:
            self._waiting.append(turn)
            try:
                while requester.waits() and not self._is_next(turn):
                    self._make_room()
                    if not self._is_next(turn):
                        self._changed.wait(LOOKS_SECONDS)
                if not requester.waits():
                    raise NobodyWaits
            finally:
                self._waiting.remove(turn)
            turn.began = time.monotonic()
            self._running.append(turn)
            self._last.pop(requester.name, None)
            self._last[requester.name] = next(self._count)
            while len(self._last) > REMEMBERED:
                del self._last[next(iter(self._last))]
        return turn

    def spare(self) -> Turn:
        """Return a turn at a place that nobody waits for; its child gives way as soon as somebody does.

        Raises TurnLost if there is no such place.
        """
        turn = Turn(0.0, _requester())
        with self._changed:
            if self._waiting or len(self._running) >= self._places:
                raise TurnLost
            turn.began = time.monotonic()
            self._running.append(turn)
        return turn

    def _make_room(self) -> None:
        """End no more children than there are waiting: those that rest first, then those that began first."""
        for other in sorted(self._running, key=lambda other: (not other.rests, other.began)):
            if sum(ended.lost for ended in self._running) < len(self._waiting):
                other.give_way()
        # A child that rests has nobody who would notice its end.
        self._running = [other for other in self._running if not (other.lost and other.rests)]

    def finish(self, turn: Turn) -> None:
        """Give the place back; the child has ended."""
        with self._changed:
            self._running = [other for other in self._running if other is not turn]
            self._changed.notify_all()

    def rest(self, turn: Turn) -> None:
        """Let others have the place of a child that has nothing to do, if they need it."""
        with self._changed:
            turn.rests = True
            self._changed.notify_all()

    def resume(self, turn: Turn, slice_seconds: float) -> bool:
        """Begin a new slice with the same child; return False if it was ended meanwhile."""
        with self._changed:
            turn.rests, turn.began, turn.slice = False, time.monotonic(), slice_seconds
            return not turn.lost

    @contextlib.contextmanager
    def turn(self, slice_seconds: float = SLICE_SECONDS) -> Iterator[Turn]:
        """Hold a place. Raises NobodyWaits, and at the end TurnLost in place of any error if the child was ended."""
        turn = self.begin(slice_seconds)
        try:
            yield turn
        except Exception:
            if turn.lost:
                raise TurnLost from None
            raise
        finally:
            self.finish(turn)

    def _is_next(self, turn: Turn) -> bool:
        first = min(self._waiting, key=lambda waiting: self._last.get(waiting.requester.name, 0))
        return len(self._running) < self._places and turn is first


TURNS = Turns()


def in_turns(work: Callable[[float], T]) -> T:
    """Call `work` with a slice of time until it loses no turn, each time with twice the slice."""
    slice_seconds = SLICE_SECONDS
    while True:
        try:
            return work(slice_seconds)
        except TurnLost:
            slice_seconds *= 2
