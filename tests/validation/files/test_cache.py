"""The cache, who may write to it, and files replaced while they are read; test_sources.py has what it keeps."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.app_pages import EXAMPLES
from validation.cli.main import main
from validation.files import read_files
from validation.files.cache import Cache
from validation.files.sandbox.incremental_read import IncrementalReader
from validation.files.sandbox.sqlite_client import FileContents, SqliteClient
from validation.files.sources import read_sources

RUN = EXAMPLES / "as-is.db"
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")


@posix
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path: Path, capsys, monkeypatch):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    cache = Cache(folder)
    (run,), _ = read_sources([RUN], cache=cache)
    assert "others can write to it" in cache.problem
    assert not [*folder.rglob("*.arrow")]
    monkeypatch.setenv("PRISMATIC_CACHE", str(folder))
    main(["query", "SELECT 1", str(RUN)])
    assert "warning: the cache is not used: " in capsys.readouterr().err
    assert run.sha256


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_not_used(tmp_path: Path):
    os.chown(tmp_path, 12345, 12345)
    assert "belongs to another user" in Cache(tmp_path).problem


@posix
def test_an_entry_that_others_can_write_to_is_read_anew(tmp_path: Path):
    (run,), _ = read_sources([RUN], cache=Cache(tmp_path))
    (entry,) = tmp_path.rglob(f"{run.sha256}.arrow")
    assert Cache(tmp_path).get(run.sha256)
    entry.chmod(0o666)
    assert Cache(tmp_path).get(run.sha256) is None
    read_sources([RUN], cache=Cache(tmp_path))
    assert Cache(tmp_path).get(run.sha256)


@posix
def test_the_folders_are_private(tmp_path: Path):
    folder = tmp_path / "cache"
    read_sources([RUN], cache=Cache(folder))
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*")) if path.is_dir()} == {0o700}
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*.arrow")} == {0o600}


class ReplacedMeanwhile(IncrementalReader):
    """Puts another file in the place of the one that was hashed, before it is read."""

    def read(self, client: SqliteClient, path: Path, name: str) -> FileContents:
        shutil.copy(EXAMPLES / "per-example.db", path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        return super().read(client, path, name)


def test_a_file_that_is_replaced_while_it_is_read_is_no_run(tmp_path: Path):
    path, cache = tmp_path / "dynamics.db", Cache(tmp_path / "cache")
    shutil.copy(RUN, path)
    runs, (rejected,) = read_sources([path], cache=cache, growing=ReplacedMeanwhile())
    assert not runs
    assert "found another one in its place" in str(rejected.error)
    assert not [*cache.folder.rglob("*.arrow")]
    assert len(read_sources([path], cache=cache)[0]) == 1


class CountedReader(IncrementalReader):
    """Counts its readings."""

    count = 0

    def read(self, client: SqliteClient, path: Path, name: str) -> FileContents:
        self.count += 1
        return super().read(client, path, name)


def test_a_large_new_file_is_read_while_it_is_hashed_and_afterwards_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache, reader, expected = Cache(tmp_path / "cache"), CountedReader(), read_sources([RUN])[0][0]
    monkeypatch.setattr(read_files, "LARGE_FILE", 0)
    for _ in range(3):
        (run,), _ = read_sources([RUN], cache=cache, growing=reader)
        assert (run.sha256, run.wide, run.notes) == (expected.sha256, expected.wide, ())
    assert reader.count == 1
    (run,), _ = read_sources([RUN, RUN], growing=reader)
    assert run.notes == ("the same file was given again as examples/as-is.db; it is read once",)


class ChangedMeanwhile(IncrementalReader):
    """Writes other runs over the one that was hashed, before each of the first readings."""

    def __init__(self, *others: str) -> None:
        super().__init__()
        self.others = [*others]

    def read(self, client: SqliteClient, path: Path, name: str) -> FileContents:
        if self.others:
            path.write_bytes((EXAMPLES / self.others.pop(0)).read_bytes())
        return super().read(client, path, name)


def test_a_file_that_is_written_once_while_it_is_read_is_read_again(tmp_path: Path):
    path = tmp_path / "dynamics.db"
    shutil.copy(RUN, path)
    (run,), rejected = read_sources([path], growing=ChangedMeanwhile("per-example.db"))
    (expected,), _ = read_sources([EXAMPLES / "per-example.db"])
    assert (run.sha256, run.wide, run.notes, rejected) == (expected.sha256, expected.wide, expected.notes, [])


def test_a_file_that_is_written_at_each_reading_says_so(tmp_path: Path):
    path, cache = tmp_path / "dynamics.db", Cache(tmp_path / "cache")
    shutil.copy(RUN, path)
    (run,), _ = read_sources([path], cache=cache, growing=ChangedMeanwhile("per-example.db", "zero-norms.db"))
    assert "the file was written while it was read, so its hash may be of other rows" in run.notes
    assert not [*cache.folder.rglob("*.arrow")]
