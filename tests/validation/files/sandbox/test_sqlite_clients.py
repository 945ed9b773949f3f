"""Many files are read by two processes; the second one gives way to everybody, and no answer depends on it."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from tests.support import bad_files
from tests.validation.files.sandbox.test_turns import RUN, started, until
from validation.files.limits import ReadLimits
from validation.files.read_files import read_files
from validation.files.sandbox import sqlite_clients
from validation.files.sandbox.sqlite_client import SqliteClient
from validation.files.sandbox.turns import TURNS, TurnLost, Turns


def test_a_spare_turn_is_only_for_a_place_that_nobody_waits_for() -> None:
    turns = Turns(2)
    first = turns.begin(60)
    second = turns.spare()
    with pytest.raises(TurnLost):
        turns.spare()
    turns.finish(second)
    waiting = started("other", lambda: turns.finish(turns.begin(60)))
    waiting.join(30)
    assert not first.lost
    turns.finish(first)


def test_a_spare_turn_gives_way_as_soon_as_somebody_waits() -> None:
    turns, ended = Turns(2), threading.Event()
    first, second = turns.begin(60), turns.spare()
    second.of(lambda: (ended.set(), turns.finish(second)))
    other = started("other", lambda: turns.finish(turns.begin(60)))
    other.join(30)
    assert ended.is_set()
    assert (first.lost, second.lost) == (False, True)


@pytest.mark.parametrize("second", [True, False])
def test_the_runs_are_the_same_by_one_process_and_by_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: bool
) -> None:
    files = [bad_files.good(tmp_path / f"{seed}.db", seed=seed) for seed in range(6)]
    (tmp_path / "bad.db").write_bytes(b"no database")
    commands: list[list[str]] = []
    popen = subprocess.Popen

    def spy(command: list[str], **options: object) -> object:
        commands.append(command)
        return popen(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", spy)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(sqlite_clients, "WORTH_A_SECOND", 0 if second else 1 << 30)
    found, rejected = read_files([*files[:3], tmp_path / "bad.db", *files[3:]])
    assert [run.path for run in found] == files
    assert [run.facts["config.seed"] for run in found] == [*range(6)]
    assert [each.path.name for each in rejected] == ["bad.db"]
    assert len(commands) == 1 + second
    assert not TURNS._running


def test_a_file_whose_process_gave_way_is_read_by_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(sqlite_clients, "WORTH_A_SECOND", 0)
    clients = sqlite_clients.SqliteClients(ReadLimits(), [RUN, RUN])
    expected = clients.read(RUN, "x", immutable=True)[1]["dynamics"]
    refused: list[str] = []

    def lost(*_: object, **__: object) -> None:
        refused.append("lost")
        raise TurnLost

    monkeypatch.setattr(clients._second, "read", lost)
    clients._first_works.acquire()
    tables: list[object] = []
    reading = started("reader", lambda: tables.append(clients.read(RUN, "x", immutable=True)[1]["dynamics"]))
    until(lambda: bool(refused))
    assert not tables
    clients._first_works.release()
    reading.join(30)
    clients.close()
    assert tables == [expected]


def test_a_spare_process_refuses_to_work_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [TURNS.begin(60), TURNS.begin(60)]
    client = SqliteClient(ReadLimits(), [RUN], spare=True)
    with pytest.raises(TurnLost):
        client.read(RUN, "x", immutable=True)
    for turn in held:
        TURNS.finish(turn)
    assert len(client.read(RUN, "x", immutable=True)[1]["dynamics"]) > 0
    client.close()
    assert not TURNS._running
