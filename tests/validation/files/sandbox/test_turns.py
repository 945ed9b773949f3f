"""Two children work at once, requesters come in turn, and what takes long gives way and still gets done."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.app_pages import EXAMPLES
from tests.support.hostile_sql import SLOW
from validation.files.limits import ReadLimits
from validation.files.sandbox.sqlite_client import SqliteClient
from validation.files.sandbox.turns import (
    REQUESTER,
    TURNS,
    NobodyWaits,
    Requester,
    TurnLost,
    Turns,
    in_turns,
)
from validation.files.sources import read_sources
from validation.query.database import relations_of
from validation.query.user_sql import BadQuery, run_query

RUN = EXAMPLES / "as-is.db"


def started(name: str, work: Callable[[], object], waits: Callable[[], bool] = lambda: True) -> threading.Thread:
    """Start a thread of a requester."""

    def run() -> None:
        REQUESTER.set(Requester(name, waits))
        work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_more_work_at_once_than_there_are_places():
    turns, lock, most, now = Turns(2), threading.Lock(), [0], [0]

    def work() -> None:
        with turns.turn(60):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.01)
            with lock:
                now[0] -= 1

    threads = [started(f"{number % 3}", work) for number in range(12)]
    for thread in threads:
        thread.join(30)
    assert most == [2]


def test_the_requester_that_was_served_longest_ago_comes_first():
    turns, order, go = Turns(1), [], threading.Event()

    def hold() -> None:
        with turns.turn(60):
            go.wait(30)

    def note(name: str) -> Callable[[], None]:
        def work() -> None:
            with turns.turn(60):
                order.append(name)

        return work

    threads = [started("a", hold)]
    until(lambda: len(turns._running) == 1)
    for place, name in enumerate(("a", "a", "b", "a", "c")):
        threads.append(started(name, note(name)))
        until(lambda place=place: len(turns._waiting) == place + 1)
    go.set()
    for thread in threads:
        thread.join(30)
    assert order == ["b", "c", "a", "a", "a"]


def test_what_takes_long_gives_way_and_gets_twice_the_time():
    turns, slices, ended = Turns(1), [], threading.Event()

    def long(slice_seconds: float) -> None:
        slices.append(slice_seconds)
        ended.clear()
        with turns.turn(0.05 if len(slices) < 3 else 60) as turn:
            turn.of(ended.set)
            if len(slices) < 3:
                ended.wait(30)
                raise RuntimeError("the child has ended")

    def short() -> None:
        for _ in range(2):
            with turns.turn(60):
                pass

    slow = started("slow", lambda: in_turns(long))
    until(lambda: bool(turns._running))
    quick = started("quick", short)
    slow.join(30)
    quick.join(30)
    assert slices[:2] == [2.0, 4.0]
    assert not slow.is_alive()
    assert not quick.is_alive()


def test_without_others_nothing_gives_way():
    turns = Turns(1)
    with turns.turn(0.0) as turn:
        time.sleep(0.2)
    assert not turn.lost


def test_what_nobody_waits_for_is_ended_and_never_begins():
    turns, gone, ended = Turns(1), threading.Event(), threading.Event()
    outcomes = []

    def work() -> None:
        try:
            with turns.turn(60) as turn:
                turn.of(ended.set)
                ended.wait(30)
                raise RuntimeError("the child has ended")
        except TurnLost:
            outcomes.append("lost")
        with contextlib.suppress(NobodyWaits), turns.turn(60):
            outcomes.append("began")

    left = started("left", work, lambda: not gone.is_set())
    until(lambda: bool(turns._running))
    other = started("other", lambda: turns.begin(60))
    gone.set()
    left.join(30)
    other.join(30)
    assert outcomes == ["lost"]


def test_a_reader_that_rests_gives_its_place_to_others():
    clients = [SqliteClient(ReadLimits()) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(contextlib.closing(client))
        expected = [client.read(RUN, "x", immutable=True)[1]["dynamics"] for client in clients]
        assert len(TURNS._running) == 2
        again = [client.read(RUN, "x", immutable=True)[1]["dynamics"] for client in clients]
    assert expected == again
    assert not TURNS._running


@pytest.mark.long
def test_five_sessions_with_endless_questions_do_not_keep_a_sixth_from_its_verdict(tmp_path: Path):
    relations, gone = relations_of(read_sources([RUN])[0]), threading.Event()
    refusals: list[str] = []

    def endless() -> None:
        with pytest.raises(BadQuery) as error:
            run_query(relations, SLOW[0], seconds=600)
        refusals.append(str(error.value))

    hostile = [started(f"hostile {number}", endless, lambda: not gone.is_set()) for number in range(5)]
    until(lambda: len(TURNS._running) == 2)
    runs: list[str] = []
    sixth = started("sixth", lambda: runs.extend(run.id for run in read_sources([RUN])[0]))
    sixth.join(60)
    assert runs == ["07bfa2d26"]
    assert all(thread.is_alive() for thread in hostile)
    gone.set()
    for thread in hostile:
        thread.join(60)
    assert refusals == ["nobody waits for the answer any more."] * 5
    assert not TURNS._running
