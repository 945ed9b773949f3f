"""Zip archives of run files: their runs are read, their names are never paths, and bombs are stopped."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from prismatic.sandbox import walls
from tests.support import bad_files
from ui.session.library import Library, Source
from validation.files.limits import ReadLimits
from validation.files.read_files import read_files
from validation.files.sandbox import zip_client
from validation.files.temporary import ALIVE
from validation.judgement.judge import judge
from validation.report.json_report import as_json


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Redirect temporary folders, so that a test can see that none is left."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Return an archive with two runs, other files, and one bad run file."""
    runs = [bad_files.run_bytes(tmp_path / "run", seed) for seed in range(2)]
    return bad_files.archive(
        tmp_path / "runs.zip",
        *(("runs/a/dynamics.db", runs[0]), ("runs/a/metrics.csv", b"step"), ("runs/b/RUN.SQLITE", runs[1])),
        *(("bad.db", b"hello"), ("__MACOSX/runs/a/._dynamics.db", b"\0\5\x16\7"), ("runs/a/dynamics.db.v0", b"x")),
    )


def unpacked_in(temporary: Path) -> list[Path]:
    """Return the files that were unpacked and not removed, beside the mark of this living process."""
    return [path for path in temporary.rglob("*") if path.is_file() and path.name != ALIVE]


def test_every_run_in_an_archive_is_read_and_one_bad_member_is_named(packed: Path, temporary: Path) -> None:
    found, rejected = read_files([packed])
    name = f"{packed.parent.name}/runs.zip"
    assert [run.name for run in found] == [f"a/dynamics.db in {name}", f"b/RUN.SQLITE in {name}"]
    assert [len(run.wide) for run in found] == [5, 5]
    assert [(one.name, one.error.id) for one in rejected] == [(f"bad.db in {packed}", "not_a_run")]
    assert {run.path for run in found} == {packed}
    assert not unpacked_in(temporary)


def test_the_runs_of_an_archive_equal_those_of_its_files(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path / "plain")
    plain, _ = read_files([tmp_path / "plain" / "runs/a/dynamics.db", tmp_path / "plain" / "runs/b/RUN.SQLITE"])
    found, _ = read_files([packed])
    assert [(run.id, run.sha256) for run in found] == [(run.id, run.sha256) for run in plain]
    assert all(one.wide.equals(other.wide) for one, other in zip(found, plain, strict=True))
    again, rejected = read_files([tmp_path / "plain" / "runs/a/dynamics.db", packed])
    assert len(again) == 2
    assert len(rejected) == 1
    assert "it is read once" in again[0].notes[0]


@pytest.mark.parametrize("name", ["../../evil.db", "/etc/evil.db", "C:\\evil.db", "a/\u202elive.db", "evil.db\0.txt"])
def test_names_in_an_archive_are_shown_and_never_paths(tmp_path: Path, temporary: Path, name: str) -> None:
    path = bad_files.archive(tmp_path / "runs.zip", (name, bad_files.run_bytes(tmp_path / "run")), ("x.db", b""))
    before = sorted(tmp_path.iterdir())
    found, rejected = read_files([path])
    assert (len(found), len(rejected)) == (1, 1)
    assert all(run.name.isprintable() for run in found)
    assert sorted(tmp_path.iterdir()) == before
    assert not unpacked_in(temporary)


def test_an_archive_may_have_any_name(packed: Path) -> None:
    """Uploads are stored under their hash, with the ending .db."""
    copy = packed.rename(packed.with_name("0123.db"))
    found, _ = read_files([(copy, "upload.zip")], private=[copy])
    assert [run.name for run in found] == ["a/dynamics.db in upload.zip", "b/RUN.SQLITE in upload.zip"]


def test_a_run_folder_packed_while_it_was_written_is_noted(tmp_path: Path) -> None:
    bad_files.wal_pair(tmp_path / "dynamics.db", kept=20)
    wal = (tmp_path / "dynamics.db-wal").read_bytes()
    members = [("dynamics.db", (tmp_path / "dynamics.db").read_bytes()), ("dynamics.db-wal", wal)]
    found, _ = read_files([bad_files.archive(tmp_path / "runs.zip", *members)])
    assert (len(found[0].wide), found[0].wal) == (20, True)
    assert found[0].notes == (
        "its -wal file in the archive was not read: rows in it are missing, and a copy of a live run may be torn",
    )


def test_archives_in_an_archive_are_noted_and_not_opened(tmp_path: Path) -> None:
    run = bad_files.run_bytes(tmp_path / "run")
    found, rejected = read_files([bad_files.archive(tmp_path / "runs.zip", ("more.zip", b"PK"), ("dynamics.db", run))])
    assert not rejected
    assert "not opened: 1 zip archive inside" in found[0].notes[0]


@pytest.mark.parametrize(
    ("limits", "kept", "words"),
    [
        (ReadLimits(members=2), 0, "at most 2 (limit `members`)"),
        (ReadLimits(file_bytes=100), 0, "at most 100 (limit `file_bytes`)"),
        (ReadLimits(unpacked_bytes=100_000), 1, "at most 100,000 (limit `unpacked_bytes`)"),
        (ReadLimits(seconds=0), 0, "limit `seconds`"),
    ],
)
def test_each_limit_of_archives_is_named(packed: Path, limits: ReadLimits, kept: int, words: str) -> None:
    found, rejected = read_files([packed], limits=limits)
    assert len(found) == kept
    assert words in str(rejected[0].error)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_is_stopped_at_the_limit_and_the_others_are_read(tmp_path: Path, temporary: Path, method: int) -> None:
    run = bad_files.run_bytes(tmp_path / "run")
    members = [("bomb.db", bytes(40 << 20)), ("dynamics.db", run)]
    path = bad_files.archive(tmp_path / "runs.zip", *members, method=method)
    found, rejected = read_files([path], limits=ReadLimits(unpacked_bytes=4 << 20))
    assert len(found) == 1
    assert "limit `unpacked_bytes`" in str(rejected[0].error)
    assert not unpacked_in(temporary)


def test_a_declared_size_that_is_too_small_is_not_trusted(tmp_path: Path) -> None:
    path = bad_files.archive(tmp_path / "runs.zip", ("bomb.db", bytes(1 << 20)))
    data = bytearray(path.read_bytes())
    for offset in (22, data.index(b"PK\x01\x02") + 24):
        data[offset : offset + 4] = b"\x10\0\0\0"
    path.write_bytes(data)
    _, rejected = read_files([path])
    assert "Bad CRC-32" in str(rejected[0].error)


def test_members_that_share_their_bytes_are_counted_each(tmp_path: Path) -> None:
    """The densest bombs have overlapping members: the directory names the same bytes a hundred times."""
    path = bad_files.archive(tmp_path / "runs.zip", ("bomb.db", bytes(1 << 20)))
    data = path.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    directory = data[start:end] * 100
    tail = bytearray(data[end:])
    tail[8:12] = (100).to_bytes(2, "little") * 2
    tail[12:16] = len(directory).to_bytes(4, "little")
    path.write_bytes(data[:start] + directory + tail)
    found, rejected = read_files([path], limits=ReadLimits(unpacked_bytes=10 << 20))
    assert not found
    # Python's own module refuses them since 3.11.8, by other words.
    refused = [one for one in rejected if re.search("limit `unpacked_bytes`|possible zip bomb", str(one.error))]
    assert len(refused) >= 90


def test_an_archive_can_be_uploaded(packed: Path) -> None:
    at = AppTest.from_file(str(Path(__file__).parents[3] / "app.py"), default_timeout=30)
    at.session_state["library"] = Library([Source(packed, "upload.zip", uploaded=True)])
    at.run()
    assert not at.exception
    assert list(at.dataframe[0].value["file"]) == ["a/dynamics.db in upload.zip", "b/RUN.SQLITE in upload.zip"]
    assert "bad.db in upload.zip" in " ".join(part.label for part in at.expander)


def test_the_json_verdict_has_the_runs_of_archives(packed: Path) -> None:
    verdict = as_json(judge(*read_files([packed])))
    json.dumps(verdict, allow_nan=False)
    assert [run["steps"] for run in verdict["runs"]] == [5, 5]


REFUSED = "not permitted" if walls.layer().seccomp else "File too large"  # by the walls, or by the limits
MEMBER = {"member": "a.db", "beside": []}
LIES: dict[str, list[object]] = {
    "nothing": [],
    "no JSON": ["hello"],
    "no end": [MEMBER, {"done": None}],
    "bytes without end": [MEMBER, {"bytes": 1 << 19}],
    "negative bytes": [MEMBER, {"bytes": -1}],
    "too many at once": [MEMBER, {"bytes": 10**12}],
    "a bad reason": [MEMBER, {"done": ["died", {"name": 1}]}, {"end": None, "zips": 0}],
    "more members than may be": [x for _ in range(300) for x in (MEMBER, {"done": None})],
    "a bad number of zips": [MEMBER, {"done": None}, {"end": None, "zips": "many"}],
    "an end that is a list": [{"end": [1]}],
}


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES.keys())
def test_a_lying_zip_worker_is_not_trusted(
    packed: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, answer: list[object]
) -> None:
    lines = "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in answer)
    (tmp_path / "liar.py").write_text(f"input(); print({lines!r}, end='')")
    monkeypatch.setattr(zip_client, "ZIP_WORKER", tmp_path / "liar.py")
    found, rejected = read_files([packed])
    assert not found
    assert [one.error.id for one in rejected] == ["unreadable"]
    assert not unpacked_in(temporary)


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "the process that reads files ended"),
        ("import time; time.sleep(60)", "limit `seconds`"),
        ("bytearray(8 << 30)", "limit `memory_bytes`"),
        ("import os; os.write(os.open(__file__ + '.owned', os.O_CREAT | os.O_WRONLY), b'x')", REFUSED),
    ],
)
def test_an_archive_that_takes_the_zip_worker_over_gains_nothing(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, words: str
) -> None:
    step = "    with zipfile.ZipFile(path) as archive:\n"
    source = zip_client.ZIP_WORKER.read_text()
    assert step in source
    (tmp_path / "changed.py").write_text(source.replace(step, f"    {attack}\n{step}"))
    monkeypatch.setattr(zip_client, "ZIP_WORKER", tmp_path / "changed.py")
    monkeypatch.setattr(zip_client, "GRACE_SECONDS", 0.2)
    found, rejected = read_files([packed], limits=ReadLimits(seconds=1))
    assert not found
    assert words in str(rejected[0].error)
