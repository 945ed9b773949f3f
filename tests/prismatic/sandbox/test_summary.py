"""The training side's commands on files that somebody else wrote: nothing in them runs, hangs or paints the screen."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from prismatic.cli import main
from prismatic.errors import LoggerError
from prismatic.runfile.manage import _pages, list_runs, migrate, snapshot
from prismatic.sandbox import summary
from prismatic.sandbox.summary import look_into
from tests.support import bad_files
from tests.support.hostile_kinds import bad_file_writers

ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n AS step FROM r"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\u202e"
WIDE = "CREATE TABLE dynamics (step INTEGER PRIMARY KEY, expert_0_top_norm REAL, expert_1_top_norm REAL)"
CODE = {
    "a view": f"CREATE VIEW mine AS {ENDLESS}",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON dynamics BEGIN DELETE FROM dynamics; END",
    "a check": "CREATE TABLE more (a CHECK (abs(a) > 0))",
    "a default": "CREATE TABLE more (a DEFAULT (randomblob(1e9)))",
    "a generated column": "CREATE TABLE more (a, b AS (abs(a)))",
    "a virtual table": "CREATE VIRTUAL TABLE more USING fts5(a)",
    "an index on an expression": "CREATE INDEX i ON dynamics (abs(step))",
    "an index with a condition": "CREATE INDEX i ON dynamics (step) WHERE step > 3",
    "an index with an operator": "CREATE INDEX i ON dynamics (step, step LIKE expert_0_top_norm)",
}


def folder_of(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name / "dynamics.db"
    path.parent.mkdir()
    return path


def test_every_kind_of_bad_file_gets_a_summary_or_a_reason(tmp_path: Path) -> None:
    paths = []
    for write in bad_file_writers():
        paths.append(folder_of(tmp_path, write.__name__))
        write(paths[-1])
    started = time.monotonic()
    found = dict(zip((path.parent.name for path in paths), look_into(paths), strict=True))
    assert time.monotonic() - started < 60
    assert found["good" if "good" in found else "one_row"].rows
    assert "no plain table" in found["endless_view"].problem
    assert "not a database" in found["csv"].problem
    assert all(each.problem.isprintable() for each in found.values())
    assert len(list_runs(tmp_path)) == len(paths)


def test_a_view_hangs_no_command_and_is_neither_copied_nor_upgraded(tmp_path: Path) -> None:
    path = folder_of(tmp_path, "a")
    bad_files.database(path, f"CREATE VIEW dynamics AS {ENDLESS}")
    started = time.monotonic()
    assert list_runs(tmp_path)[0].status == "unreadable"
    for command in (migrate, lambda path: snapshot(path, tmp_path / "copy.db")):
        with pytest.raises(LoggerError, match="no plain table"):
            command(path)
    assert time.monotonic() - started < 5
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("statement", CODE.values(), ids=CODE)
def test_a_file_with_code_in_its_schema_is_not_upgraded(tmp_path: Path, statement: str) -> None:
    path = bad_files.database(folder_of(tmp_path, "a"), WIDE, statement)
    before = path.read_bytes()
    with pytest.raises(LoggerError, match="views, triggers or expressions"):
        migrate(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "index",
    [
        "create index i on dynamics(expert_0_top_norm)",
        'create unique index "i"\non "dynamics" ( "step" , expert_0_top_norm desc )',
    ],
)
def test_an_index_of_columns_is_upgraded_with_its_file_however_it_is_written(tmp_path: Path, index: str) -> None:
    path = bad_files.database(folder_of(tmp_path, "a"), WIDE, index)
    assert migrate(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'i'").fetchall()


def test_the_list_prints_no_escape_of_a_file_or_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder_of(tmp_path, f"run{ESCAPES}")
    bad_files.good(path)
    facts = [("exit_state", f'"{ESCAPES}"'), ("run_hash", ESCAPES), ("config.seed", "9" * 400), ("x", "[" * 1000)]
    bad_files.database(path, ("INSERT OR REPLACE INTO run VALUES (?, ?)", facts))
    folder_of(tmp_path, f"bad{ESCAPES}").write_text("hello")
    assert main(["runs", str(tmp_path)]) == 0
    assert main(["runs", "--json", str(tmp_path)]) == 0
    assert main(["snapshot", str(tmp_path / f"bad{ESCAPES}")]) == 2
    printed = "".join(capsys.readouterr())
    assert not set(ESCAPES) & set(printed) - {"[", "2", "J", "]", "0", ";", *"owned"}


def test_pipes_devices_and_links_stop_no_command(tmp_path: Path) -> None:
    bad_files.good(folder_of(tmp_path, "good"))
    os.mkfifo(folder_of(tmp_path, "pipe"))
    for name, target in (("device", "/dev/zero"), ("nothing", "/nonexistent"), ("loop", "dynamics.db")):
        folder_of(tmp_path, name).symlink_to(target)
    states = {run.path.parent.name: run.status for run in list_runs(tmp_path)}
    assert states.pop("good") == "unknown"
    assert set(states.values()) == {"unreadable"}
    with pytest.raises(LoggerError, match="no regular file"):
        snapshot(tmp_path / "pipe" / "dynamics.db", tmp_path / "copy.db")


def test_a_file_that_kills_the_reader_costs_no_other_its_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = tmp_path / "worker.py"
    step = "db = open_hardened(url_in_place(path)"
    source = summary.WORKER.read_text()
    assert step in source
    worker.write_text(source.replace(step, f"if 'killer' in path: __import__('os').abort()\n    {step}"))
    monkeypatch.setattr(summary, "WORKER", worker)
    paths = [folder_of(tmp_path, name) for name in ("before", "killer", "after")]
    for path in paths:
        bad_files.good(path)
    assert [(each.rows, bool(each.problem)) for each in look_into(paths)] == [(40, False), (0, True), (40, False)]


@pytest.mark.parametrize("reply", [b"", b"{", b"[]", b"null", b'{"rows": 1e999}', b'{"problem": ["\\u001b"]}'])
def test_a_lying_reader_is_not_trusted(reply: bytes) -> None:
    found = summary._parsed(reply)
    assert found is None or (found.problem.isprintable() and not found.facts)


def test_pages_are_read_without_the_schema(tmp_path: Path) -> None:
    """Otherwise SQLite would parse what the author of the file wrote, in this process."""
    path = tmp_path / "dynamics.db"
    bad_files.garbage_schema(path)
    with _pages(path) as connection:
        connection.execute("PRAGMA user_version").fetchone()
        with pytest.raises(sqlite3.DatabaseError, match="malformed"):
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()


def test_a_journal_that_names_another_file_is_refused_and_nothing_is_deleted(tmp_path: Path) -> None:
    path, victim = bad_files.good(tmp_path / "dynamics.db"), tmp_path / "victim"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("PRAGMA cache_size = 1")
        db.execute("UPDATE dynamics SET loss = 9")
        journal = Path(f"{path}-journal").read_bytes()
        db.execute("ROLLBACK")
    victim.write_text("mine")
    name = os.fsencode(victim)
    end = bytes(4) + name + len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big")
    Path(f"{path}-journal").write_bytes(journal + end + bytes.fromhex("d9d505f920a163d7"))
    with pytest.raises(LoggerError, match="names another file"):
        snapshot(path, tmp_path / "copy.db")
    assert victim.read_text() == "mine"
