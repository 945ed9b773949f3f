"""Log to run files on a disk that fails: a program that runs with faulty_io.c in LD_PRELOAD.

    LD_PRELOAD=faulty_io.so python -m tests.support.faulty_disk FOLDER SEED FAULTS KILLS

Each case logs the same kind of training: steps that are rewound now and then, and flushes. A fault begins at a random
write, sync, truncation or deletion and lasts for some of them; a kill is SIGKILL at such a call, or after half of a
write. Then the file must be what a prefix of the calls of log() makes of it, up to the last flush() that returned True
or further: so no acknowledged row is lost, doubled or torn, and each deletion has its event. After faults that end,
close() must have written everything. Prints as JSON how many faults and kills happened and what was wrong.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import random
import sqlite3
import sys
import warnings
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from prismatic.errors import LoggerError
from prismatic.runfile.logger import DynamicsLogger

EIO, FULL_DISK, SHORT_WRITE, FAILED_SYNC, KILL, TORN_WRITE = range(1, 7)  # `enum fault` of faulty_io.c
CALLS = 30  # of log() in a case
SLOTS = 3  # rows of `layers` of a step

library = ctypes.CDLL(None)


def arm(path: Path, kind: int, first: int, number: int) -> None:
    """Let `number` calls that change this file, or one beside it of the same name, fail from the `first` on."""
    library.faulty_arm(os.fsencode(path), kind, ctypes.c_long(first), ctypes.c_long(number))


def disarm() -> None:
    library.faulty_arm(b"", 0, ctypes.c_long(0), ctypes.c_long(0))


@dataclass(frozen=True)
class State:
    """The contents of the file after some calls of log()."""

    rows: dict[int, int]
    """The number of the call that wrote each step."""
    deletions: int
    """The number of events that report deleted rows."""


@dataclass
class Case:
    """The steps to log and the states that they lead through, one for each record that the logger queues."""

    chance: random.Random
    steps: list[int] = field(default_factory=list)
    states: list[State] = field(default_factory=lambda: [State({}, 0)])
    after: list[int] = field(default_factory=list)
    """For each call, the index of the state that it leads to."""

    def __post_init__(self) -> None:
        step = 0
        for call in range(CALLS):
            last = self.states[-1]
            if call and self.chance.random() < 0.1:
                step = self.chance.randrange(self.steps[-1] + 1)
                kept = {s: n for s, n in last.rows.items() if s < step}
                last = State(kept, last.deletions + 1)
                if step != self.steps[-1]:  # a step logged twice is replaced at once
                    self.states.append(last)
            self.steps.append(step)
            self.states.append(State({**last.rows, step: call}, last.deletions))
            self.after.append(len(self.states) - 1)
            step += self.chance.randint(1, 3)


def log(logger: DynamicsLogger, step: int, call: int) -> None:
    norms = {"top_norm": float(call), "bottom_norm": float(call)}
    layers = [{"layer": slot, "expert": 0, "source": "merged", "top_norm": float(call)} for slot in range(SLOTS)]
    logger.log(step, {"expert_gradients": {"expert_0": norms}, "layers": layers})


def state_of(path: Path) -> State:
    """Return the state of a file. Raises AssertionError if it is damaged, or if a step lacks some of its values."""
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "damaged"
        rows = file.execute("SELECT * FROM dynamics").fetchall()
        if rows:  # the columns are made with the first row
            rows = file.execute("SELECT step, expert_0_top_norm, expert_0_bottom_norm FROM dynamics").fetchall()
        assert all(top == bottom for _, top, bottom in rows), "a torn row"
        layers = file.execute("SELECT step, layer, top_norm FROM layers ORDER BY 1, 2").fetchall()
        assert layers == [(step, slot, top) for step, top, _ in sorted(rows) for slot in range(SLOTS)], "torn layers"
        deletions = "SELECT count(*) FROM events WHERE code IN ('rewind', 'repeated_step')"
        return State({step: int(top) for step, top, _ in rows}, file.execute(deletions).fetchone()[0])


def train(case: Case, path: Path, options: dict[str, object], acknowledge) -> None:
    """Log all steps; call `acknowledge` with the index of a state that a flush() has written."""
    logger = DynamicsLogger(path, **options)
    for call, step in enumerate(case.steps):
        log(logger, step, call)
        if case.chance.random() < 0.2 and logger.flush():
            acknowledge(case.after[call])
    logger.close()
    assert logger.dropped == 0, f"{logger.dropped} steps dropped"
    acknowledge(len(case.states) - 1)


def options_of(chance: random.Random) -> dict[str, object]:
    return {"flush_seconds": chance.choice([0, 0.002, 1e9]), "journal_mode": chance.choice(["delete", "wal"])}


def one_fault(path: Path, chance: random.Random) -> bool:
    """Return whether the fault happened. Raises AssertionError for a file that is not what was acknowledged."""
    case, options = Case(chance), options_of(chance)

    def acknowledge(state: int) -> None:
        nonlocal happened
        if state == len(case.states) - 1:
            happened = happened or library.faulty_calls() > first
            disarm()  # a reader may have to complete what the writer could not
        assert state_of(path) == case.states[state], "flush() returned True before everything was in the file"

    kind = chance.choice([EIO, FULL_DISK, SHORT_WRITE, FAILED_SYNC])
    first, number = int(chance.expovariate(1 / 25)), chance.choice([1, 1, 2, 5, 20])
    happened = False
    arm(path, kind, first, number)
    try:
        train(case, path, options, acknowledge)
    except LoggerError:  # while the file was opened; it must open on a sound disk
        happened = True
        disarm()
        train(case, path, options, acknowledge)
    return happened


def one_kill(path: Path, chance: random.Random) -> bool:
    """Return whether the process was killed. Raises AssertionError for a file that is not what was acknowledged."""
    case, options = Case(chance), options_of(chance)
    reading, writing = os.pipe()
    kind, first = chance.choice([KILL, TORN_WRITE]), int(chance.expovariate(1 / 60))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            arm(path, kind, first, 1_000_000)
            train(case, path, options, lambda state: os.write(writing, bytes([state])))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as acknowledgements:
        acknowledged = max(acknowledgements.read(), default=0)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or status == 0, "the training failed"
    DynamicsLogger(path).close()  # a run continues, whatever was left behind
    found = state_of(path)
    assert found in case.states[acknowledged:], f"not a state after the acknowledged one: {found}"
    return killed


def main(folder: Path, seed: int, faults: int, kills: int) -> None:
    warnings.simplefilter("ignore")
    done, wrong = {"faults": 0, "kills": 0}, []
    for name, count, case in (("faults", faults, one_fault), ("kills", kills, one_kill)):
        for number in itertools.count():
            if done[name] + len(wrong) >= count:
                break
            path = folder / f"{name}-{number}" / "dynamics.db"
            try:
                done[name] += case(path, random.Random(f"{seed} {name} {number}"))
            except Exception as error:
                wrong.append(f"{name} {number}: {type(error).__name__}: {error}")
            disarm()
    print(json.dumps({**done, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
