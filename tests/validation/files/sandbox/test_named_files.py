"""The files that a reader may read are named when it starts: one reader serves a batch, and no other file."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import textwrap
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from prismatic.sandbox import walls
from tests.support import bad_files
from validation.files.errors import RunFileError
from validation.files.limits import ReadLimits
from validation.files.read_files import read_files
from validation.files.sandbox import sqlite_client
from validation.files.sandbox.sqlite_client import SqliteClient

needs_landlock = pytest.mark.skipif(
    not walls.layer().landlock, reason="this kernel has no Landlock, or forbids its use"
)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the commands of the readers that have started so far."""
    commands: list[object] = []
    popen = subprocess.Popen

    def spy(command: list[str], **options: object) -> object:
        commands.append(command)
        return popen(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", spy)
    return commands


def test_one_reader_serves_a_batch_with_its_archives(tmp_path: Path, started: list[object]) -> None:
    files = [bad_files.good(tmp_path / f"{seed}.db", seed=seed) for seed in range(3)]
    archives = [tmp_path / f"{seed}.zip" for seed in (3, 4)]
    for seed, path in enumerate(archives, start=3):
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(bad_files.good(tmp_path / f"{seed}.db", seed=seed), "x.db")
    found, rejected = read_files([files[0], archives[0], files[1], archives[1], files[2]])
    assert (len(found), rejected) == (5, [])
    assert sum("sqlite_worker" in str(command) for command in started) == 1


@needs_landlock
def test_a_reader_cannot_read_a_file_that_was_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would start another reader for it; a reader that was taken over has no such help."""
    first, second = (bad_files.good(tmp_path / name) for name in ("a.db", "b.db"))
    with closing(SqliteClient(ReadLimits(), [first])) as client:
        client.read(first, "a", immutable=True)
        monkeypatch.setattr(SqliteClient, "_may_read", lambda *_: True)
        with pytest.raises(RunFileError, match="Permission denied"):
            client.read(second, "b", immutable=True)


@needs_landlock
def test_a_folder_in_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    """Otherwise a link to / in place of a file, made at the right moment, would open all files to the reader."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "secret").write_text("a secret")
    code = f"""
        import sys; sys.path.append({str(sqlite_client.PROJECT)!r})
        from prismatic.sandbox import walls
        walls.restrict_files([{str(tmp_path / "folder")!r}], [])
        open({str(tmp_path / "folder" / "secret")!r})"""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert "Permission denied" in done.stderr


def test_another_file_needs_another_reader(tmp_path: Path, started: list[object]) -> None:
    first, second = (bad_files.good(tmp_path / name) for name in ("a.db", "b.db"))
    with closing(SqliteClient(ReadLimits())) as client:
        for path in (first, first, second, first, second):
            assert client.read(path, "x", immutable=True)
    assert len(started) == 2


def test_a_file_that_was_replaced_is_read(tmp_path: Path, started: list[object]) -> None:
    path, other = bad_files.good(tmp_path / "a.db"), bad_files.good(tmp_path / "b.db", seed=1)
    with closing(SqliteClient(ReadLimits(), [path])) as client:
        _, before = client.read(path, "a", immutable=False)
        other.replace(path)
        _, after = client.read(path, "a", immutable=False)
    assert not before["dynamics"].equals(after["dynamics"])
    assert len(started) == 2


def test_a_wal_that_is_made_later_is_read(tmp_path: Path) -> None:
    path = bad_files.good(tmp_path / "dynamics.db")
    with closing(SqliteClient(ReadLimits(), [path])) as client:
        _, before = client.read(path, "a", immutable=False)
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("DELETE FROM dynamics WHERE step = (SELECT max(step) FROM dynamics)")
            _, after = client.read(path, "a", immutable=False)
    assert len(after["dynamics"]) == len(before["dynamics"]) - 1


def test_a_change_just_before_reading_costs_a_second_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, copy = bad_files.good(tmp_path / "a.db"), tmp_path / "copy.db"
    shutil.copy(path, copy)
    with closing(SqliteClient(ReadLimits(), [path])) as client:
        client.read(path, "a", immutable=False)
        may_read, asked = SqliteClient._may_read, []

        def replaced_after_the_question(self: SqliteClient, given: Path) -> bool:
            asked.append(given)
            if len(asked) == 1:
                answer = may_read(self, given)
                copy.replace(path)
                return answer
            return may_read(self, given)

        monkeypatch.setattr(SqliteClient, "_may_read", replaced_after_the_question)
        assert client.read(path, "a", immutable=False)


def test_a_link_to_a_file_is_read_with_the_wal_beside_the_file(tmp_path: Path) -> None:
    path, link = bad_files.good(tmp_path / "dynamics.db"), tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    found, rejected = read_files([link])
    assert (len(found), rejected) == (1, [])
