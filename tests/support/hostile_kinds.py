"""More than 250 kinds of hostile files, made from lists of values and places, and the twenty good runs beside them.

A kind is a function that makes one hostile thing in a folder and returns the source to read: a file or a folder.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.support import bad_files
from tests.support.simulated_runs import named, simulated_run, study, write

Kind = Callable[[Path], Path]
HUGE, DEEP = "9" * 400, "[" * 1000 + "]" * 1000

# As the text of a fact, so also what is no JSON.
VALUES = {
    "of 400 digits": HUGE,
    "of 400 digits below zero": f"-{HUGE}",
    "of 5,000 digits": "9" * 5000,
    "without end": "1e999",
    "NaN": "NaN",
    "a fraction of 400 digits": f"0.{HUGE}",
    "below zero": "-1",
    "zero": "0",
    "true": "true",
    "an empty text": '""',
    "nothing": None,
    "nested": DEEP,
    "nested objects": '{"a":' * 900 + "1" + "}" * 900,
    "an object": '{"seed": {"a": [1]}}',
    "half a character": r'"a\ud800b"',
    "half a character in a key": r'{"\udfff": "\udc00"}',
    "a terminal's escape": r'"\u001b[2J\u001b]0;owned\u0007\r\n"',
    "written from right to left": r'"\u202egpj.exe\u2066"',
    "markup": '"</script><img src=x onerror=alert(1)>![x](http://e.invalid)"',
    "a list of lists": "[[1, [2]], null, [true]]",
    "of 60,000 characters": json.dumps("x" * 60_000),
}
FACTS = (
    *("config.seed", "planned_steps", "config.perturbation_scale", "config.num_experts", "log_freq", "warmup_steps"),
    *("config.positive_control", "mixture", "exit_state", "study.seeds", "registered.alpha", "routers"),
)
NUMBERS = {"infinite": "9e999", "largest": "1.7e308", "smallest": "5e-324", "negative": "-1", "text": "'x'"}
NUMBERS |= {"bytes": "x'00ff'", "missing": "NULL", "whole": str(2**63 - 1)}
COLUMNS = (
    *("dynamics.step", "dynamics.loss", "dynamics.wall_time", "dynamics.expert_1_bottom_norm"),
    *("layers.layer", "layers.norm", "experts.expert", "experts.scale", "events.code", "tiers.weights"),
)


def companions(folder: Path) -> list[Path]:
    """Write twenty good runs: six seeds with their sham runs, and eight single runs."""
    made = {"steps": 120, "perturbed": 3, "control": 3, "awakening": 1.5}
    runs = study(6, twins=True, config={"width": 8}, **made)
    runs += [named(simulated_run(seed=20 + n, **made), f"alone {n}", width=100 + n, seed=n) for n in range(8)]
    return [write(run, folder / f"{run.id}.db", planned_steps=120, run_hash=f"{n:06x}") for n, run in enumerate(runs)]


def template(folder: Path) -> Path:
    """Write the run that hostile files are made from. It has its own options, so that it belongs to no other run."""
    run = named(simulated_run(seed=99, steps=60, perturbed=2, control=2), "hostile", width=7, seed=99)
    path = write(run, folder / "template.db", planned_steps=60, run_hash="badbad", mixture="outputs")
    _change(path, "DELETE FROM run WHERE key = 'checksums'")
    _change(path, "INSERT INTO events (id, code) VALUES (7, 'x')", "INSERT INTO tiers VALUES (0, 'top', 5, 'ab')")
    return path


def kinds(template: Path) -> dict[str, Kind]:
    """Return every kind by its name."""
    facts = {
        f"the fact {fact} {name}": partial(_with_fact, template, fact, value)
        for fact in FACTS
        for name, value in VALUES.items()
    }
    cells = {
        f"a {name} value in {column}": partial(_with_cell, template, column, value)
        for column in COLUMNS
        for name, value in NUMBERS.items()
    }
    files = {f"a file with {write.__name__}": partial(_bad_file, write) for write in bad_file_writers()}
    return {**facts, **cells, **files, **PLACES}


def bad_file_writers() -> Iterator[Callable[[Path], object]]:
    """Yield the functions of bad_files that write one kind of file at a path."""
    for name, function in vars(bad_files).items():
        ours = inspect.isfunction(function) and function.__module__ == bad_files.__name__ and not name.startswith("_")
        if ours and [*inspect.signature(function).parameters] == ["path"]:
            yield function


def _change(path: Path, *statements: str | tuple[str, tuple[object, ...]]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement) if isinstance(statement, str) else db.execute(*statement)


def _with_fact(template: Path, fact: str, value: str | None, folder: Path) -> Path:
    path = Path(shutil.copy(template, folder / "dynamics.db"))
    _change(path, ("INSERT OR REPLACE INTO run VALUES (?, ?)", (fact, value)))
    return path


def _with_cell(template: Path, column: str, value: str, folder: Path) -> Path:
    """Write a value into one row, in a column without a type, where SQLite keeps it as it is."""
    path = Path(shutil.copy(template, folder / "dynamics.db"))
    table, name = column.split(".")
    rowid = f"(SELECT max(rowid) FROM {table} WHERE rowid < 40)"
    _change(
        path,
        f"CREATE TABLE spare AS SELECT * FROM {table} WHERE 0",
        f"INSERT INTO spare SELECT * FROM {table}",
        f"DROP TABLE {table}",
        "PRAGMA writable_schema = ON",
        f"UPDATE sqlite_master SET sql = replace(replace(replace(sql, 'spare', '{table}'), ' REAL', ''), ' INT', ''), "
        f"name = '{table}', tbl_name = '{table}' WHERE name = 'spare'",
    )
    _change(path, f"UPDATE {table} SET {name} = {value} WHERE rowid = {rowid}")
    return path


def _bad_file(write: Callable[[Path], object], folder: Path) -> Path:
    write(folder / "dynamics.db")
    return folder / "dynamics.db"


# -- Places: what lies in a folder of runs beside run files ------------------------------------------------------------


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "dynamics.db")
    return folder


def _socket(folder: Path) -> Path:
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("dynamics.db")
    finally:
        os.chdir(here)
    return folder


def _link(target: str, folder: Path) -> Path:
    (folder / "dynamics.db").symlink_to(target)
    return folder


def _folder_for_a_file(folder: Path) -> Path:
    (folder / "dynamics.db" / "more").mkdir(parents=True)
    return folder


def _loop_of_folders(folder: Path) -> Path:
    (folder / "a").mkdir()
    (folder / "a" / "again").symlink_to(folder)
    return folder


def _odd_name(name: bytes, folder: Path) -> Path:
    place = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    place.mkdir()
    (place / "dynamics.db").write_text("hello")
    return place


PLACES: dict[str, Kind] = {
    "a pipe in a folder": _pipe,
    "a socket in a folder": _socket,
    "a folder called dynamics.db": _folder_for_a_file,
    "a link to its own folder": _loop_of_folders,
    "a folder of nothing": lambda folder: folder,
    "a path of nothing": lambda folder: folder / "nothing.db",
    **{
        f"a link to {target}": partial(_link, target)
        for target in ("/dev/zero", "/dev/random", "/etc/passwd", "/nonexistent", "dynamics.db", "/", "/proc/self/mem")
    },
    **{
        f"a folder called {name!r}": partial(_odd_name, name)
        for name in (b"\xff\xfe", b"\x1b[2J", b"new\nline", "\u202egpj".encode(), b"-o", b"x" * 250)
    },
}
