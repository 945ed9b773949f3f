"""The kept inputs of the fuzzer pass, are small, and the harnesses notice what they should."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import pytest

from tests.fuzzing import fuzz, harnesses
from tests.fuzzing.harnesses import HARNESSES, BrokenContractError
from validation.files.sandbox import sqlite_client, sqlite_worker, zip_client
from validation.files.sandbox.received import ProtocolError
from validation.query import result as query_result

MOST_KEPT = 400_000  # bytes


def inputs(name: str) -> list[Path]:
    return sorted((fuzz.CORPUS / name).iterdir())


@pytest.mark.parametrize("name", HARNESSES)
def test_every_kept_input_passes(name: str) -> None:
    assert inputs(name)
    for path in inputs(name):
        HARNESSES[name].run(path.read_bytes())


def test_the_kept_inputs_are_small_and_belong_to_a_harness() -> None:
    kept = [path for path in fuzz.CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} == HARNESSES.keys()
    assert sum(path.stat().st_size for path in kept) < MOST_KEPT


@pytest.mark.skipif(not fuzz.has_fuzzer(), reason=fuzz.MISSING)
def test_a_second_of_fuzzing_runs(capfd: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--seconds", "1", "sql_reply"]) == 0
    assert re.search(r"sql_reply: [\d,]+ inputs, no failure", capfd.readouterr().out)


# -- What the harnesses notice, each shown by a mistake planted in our code --------------------------------------------

PAGE = {"page": "dynamics", "rows": 0, "columns": [["step", "q"]]}
HEADER = {"ok": True, "notes": [], "damage": None, "ignored": ["\x1b[2J"]}
HEADER |= {"ignored_count": 1, "version": 1, "application_id": 0, "lost": False, "last_event": 0, "last_rowids": {}}


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def lines(*messages: object) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def test_escapes_in_a_reply_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    harnesses.sqlite_reply(lines(PAGE, HEADER))
    monkeypatch.setattr(sqlite_client, "printable", lambda text, *_: text)
    with pytest.raises(BrokenContractError):
        harnesses.sqlite_reply(lines(PAGE, HEADER))


def test_a_file_outside_its_folder_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    part = {"member": "a", "set": 0, "part": "../../here"}
    reply = lines(part, {"done": None}, {"end": None, "zips": 0})
    harnesses.zip_reply(reply)
    monkeypatch.setattr(zip_client, "PART", re.compile(".*"))
    with pytest.raises(BrokenContractError):
        harnesses.zip_reply(reply)


def test_an_answer_that_cannot_be_shown_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = lines({"columns": [["a", "integer"]], "rows": 1, "more": False, "cut": 0}, [1])
    harnesses.sql_reply(reply)
    monkeypatch.setattr(query_result, "_cell", broken)
    with pytest.raises(BrokenContractError):
        harnesses.sql_reply(reply)


def test_an_archive_that_is_refused_by_the_parent_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../b.db", b"abc")
    harnesses.archive(archive.getvalue())
    monkeypatch.setattr(zip_client, "CHUNK_BYTES", 1)
    with pytest.raises(ProtocolError):
        harnesses.archive(archive.getvalue())


def test_an_error_without_a_name_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    harnesses.edited_file(b"")
    monkeypatch.setattr(sqlite_worker, "plain_columns", broken)
    with pytest.raises(ZeroDivisionError):
        harnesses.edited_file(b"")


def test_two_different_answers_to_one_file_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    if harnesses._driver() is None:
        pytest.skip("Arrow's SQLite driver is not installed, so there is one path only")
    harnesses.sql_file(b"")
    monkeypatch.setattr(sqlite_worker, "driver_pages", lambda *_: iter(()))
    with pytest.raises(AssertionError, match="two paths"):
        harnesses.sql_file(b"")


def test_an_error_in_judging_is_noticed_though_it_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    harnesses.facts(b"")
    monkeypatch.setattr("validation.judgement.judge.measure_run", broken)
    with pytest.raises(Exception, match=r"ZeroDivisionError|division"):
        harnesses.facts(b"")
