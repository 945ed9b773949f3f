"""Targets of fuzzing: a function of bytes for each place where files and replies of others come in.

Each raises for an answer that breaks its contract and for an exception that is not one of ours; the limits of time and
memory are the fuzzer's (fuzz.py). An input is small and stands for a file or a reply: see each function.
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from prismatic.contract import schema
from tests.support.source_tree import ROOT
from validation.files import read_files, read_sets, received_run
from validation.files.errors import RunFileError
from validation.files.limits import ReadLimits
from validation.files.run_file import RUN_TABLES, RunFile
from validation.files.sandbox import arrow_driver, set_client, sqlite_client, sqlite_worker, zip_client, zip_worker
from validation.judgement.guard import CaughtError
from validation.judgement.judge import judge
from validation.query import user_sql
from validation.query.result import format_rows
from validation.report.json_report import as_json
from validation.text import printable

LIMITS = ReadLimits(rows=500, values=20_000, seconds=3, file_bytes=1 << 20, unpacked_bytes=1 << 20, members=5)
RESULT_ROWS = 200  # of an answer to SQL
SQL_STEPS = 20_000  # times 100 instructions of SQLite, for all statements of an input

# -- Run files ---------------------------------------------------------------------------------------------------------


def edited_file(data: bytes) -> None:
    """Read a run file with edits: for each, two bytes of place, one of length, and the bytes to write there."""
    file, at = bytearray(small_run()), 0
    while at + 3 < len(data):
        place, length = int.from_bytes(data[at : at + 2], "big") % len(file), data[at + 2] % 32
        new = data[at + 3 : at + 3 + length]
        file[place : place + len(new)] = new
        at += 3 + length
    _read_and_judge(bytes(file))


def sql_file(data: bytes) -> None:
    """Read a run file that SQL statements, one a line, have changed."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.deserialize(small_run())
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
        db.set_authorizer(_no_other_files)
        steps = iter(range(SQL_STEPS))
        db.set_progress_handler(lambda: next(steps, None) is None, 100)
        for statement in data.decode("utf-8", "surrogateescape").split("\n")[:20]:
            with suppress(sqlite3.Error, sqlite3.Warning, UnicodeError, ValueError, OverflowError, MemoryError):
                db.execute(statement).fetchall()
        if db.in_transaction:
            db.execute("ROLLBACK")
        db.set_progress_handler(None, 0)
        file = db.serialize()
    _read_and_judge(file)


def _no_other_files(action: int, first: str | None, *_: str | None) -> int:
    writes = action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)
    settings = action == sqlite3.SQLITE_PRAGMA and str(first).lower() not in ("writable_schema", "user_version")
    return sqlite3.SQLITE_DENY if writes or settings else sqlite3.SQLITE_OK


def _read_and_judge(file: bytes) -> None:
    """Read a file as the worker and its parent do, and judge it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dynamics.db"
        path.write_bytes(file)
        replies = [_reply(path, driver) for driver in dict.fromkeys((None, _driver()))]
    answers = [_answer(reply) for reply in replies]  # an honest reply must be accepted, whatever the file says
    assert "took longer" in str(answers) or len({*map(repr, map(_comparable, answers))}) == 1, "two paths, two answers"
    if not isinstance(answers[0], str):
        digest = hashlib.sha256(file).hexdigest()
        run = received_run.run_of(path, "dynamics.db", digest, answers[0], LIMITS)
        _check_run(run)
        _judge_some(run)


def _answer(reply: bytes) -> tuple[dict[str, Any], dict[str, pa.Table]] | str:
    """Return what the parent makes of a reply, or its error."""
    try:
        return sqlite_client._read_contents(io.BytesIO(reply), LIMITS)
    except RunFileError as error:
        return str(error)


def _comparable(answer: tuple[dict[str, Any], dict[str, pa.Table]] | str) -> Any:
    """Return the answer without the words of damage, which SQLite finds in another place each time."""
    if isinstance(answer, str):
        return answer[:60]
    facts, tables = answer
    return {**facts, "damage": len(facts["damage"])}, {name: table.to_pydict() for name, table in tables.items()}


def _reply(path: Path, driver: arrow_driver.Driver | None) -> bytes:
    request = sqlite_client.WHOLE_FILE | {"path": str(path), "immutable": True, "limits": asdict(LIMITS), "since": {}}
    sent: list[bytes] = []

    def send(message: dict[str, Any], blobs: list[Any]) -> None:
        sent.extend([json.dumps(message).encode(), b"\n", *map(bytes, blobs)])

    try:
        send({**sqlite_worker.read(json.loads(json.dumps(request)), driver, send), "ok": True}, [])
    except Exception as error:
        code, details = sqlite_worker.reason(error)
        if code == "unexpected":
            raise
        send({"ok": False, "code": code, "details": details}, [])
    return b"".join(sent)


@cache
def _driver() -> arrow_driver.Driver | None:
    return arrow_driver.load(*sqlite_client.driver_library())


@cache
def small_run() -> bytes:
    """Return a run file with some rows in every table, the same each time."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 512")
        for statement in schema.create_statements(3):
            db.execute(statement)
        for table in ("dynamics", *schema.TABLES):
            types = {str(name): str(kind) for _, name, kind, *_ in db.execute(f"PRAGMA table_info({table})")}
            rows = [[_cell(table, *column, row) for column in types.items()] for row in range(40)]
            db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(types))})", rows)
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
        db.execute("VACUUM")
        return db.serialize()


def _cell(table: str, name: str, kind: str, row: int) -> object:
    if kind == "BLOB":
        pairs = {"expert": (0, 0, 1), "other": (1, 2, 2)}
        return struct.pack("<3f", *pairs.get(name, (0.5, 0.25, row / 7)))
    expert = row % 3
    known = {"source": "merged", "role": schema.ROLES[expert], "tier": schema.TIERS[expert], "level": "info"}
    known |= {"name": f"expert_1_{schema.TIERS[expert]}_norm", "key": f"config.key_{row}", "value": 0.5}
    known |= {"experts": 3, "pairs": 3}
    known |= {"step": row if table == "dynamics" else row // 3, "layer": 0, "expert": expert, "other": 3}
    return known.get(name, f"{row}" if kind == "TEXT" else row if kind == "INTEGER" else 0.25 + (row * row % 11) / 7)


# -- Facts and judging -------------------------------------------------------------------------------------------------


def facts(data: bytes) -> None:
    """Judge up to three runs whose facts are these lines, `KEY VALUE`; an empty line begins the next run."""
    runs = []
    for place, part in enumerate(data.decode("utf-8", "replace").split("\n\n")[:3]):
        lines = [line.partition(" ") for line in part.split("\n")[:60]]
        known = {**_example()[1], **{key: value for key, _, value in lines}}
        table = pa.table({"key": [*known], "value": [*known.values()]}, schema=_example()[2])
        runs.append(replace(_example()[0], id=f"run-{place}", facts=received_run.facts_of(table)[0]))
    _judge(*runs)


@cache
def _example() -> tuple[RunFile, dict[str, str], pa.Schema]:
    """Return an example run, its facts as text, and the schema of table `run`."""
    (run,), _ = read_files.read_files([ROOT / "examples" / "as-is.db"])
    texts = {key: json.dumps(value) for key, value in run.facts.items()}
    return run, texts, pa.schema([("key", pa.string()), ("value", pa.string())])


def _check_run(run: RunFile) -> None:
    """Check what every reader of a run relies on."""
    steps = run.wide["step"].to_pylist()
    assert steps == sorted({*steps}), "steps are not in order"
    assert all(text == printable(text, len(text) + 1) for text in (*run.notes, *run.damage, *run.ignored))
    for table in (run.wide, *(getattr(run, name) for name in RUN_TABLES)):
        table.validate(full=True)


def _judge_some(run: RunFile) -> None:
    """Judge one run of eight, by its hash: judging takes several times as long as reading."""
    if run.sha256[0] in "01":
        _judge(run)


def _judge(*runs: RunFile) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaughtError)  # the guard around judging hides no mistake here
        json.dumps(as_json(judge(runs)), allow_nan=False)


# -- Archives ----------------------------------------------------------------------------------------------------------


def archive(data: bytes) -> None:
    """Unpack a zip archive, and receive what the worker sends."""
    with tempfile.TemporaryDirectory() as folder, _sent() as sink:
        path = Path(folder) / "archive.zip"
        path.write_bytes(data)
        zip_worker.answer(str(path), asdict(LIMITS))
        with suppress(RunFileError):
            _receive(sink.getvalue())


@contextmanager
def _sent() -> Iterator[io.BytesIO]:
    """Collect what zip_worker.py sends."""
    sink, send = io.BytesIO(), zip_worker.send
    zip_worker.send = lambda message, payload=b"": sink.write(json.dumps(message).encode() + b"\n" + payload)
    try:
        yield sink
    finally:
        zip_worker.send = send


def _receive(reply: bytes) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "unpacked"
        folder.mkdir()
        unpacking = zip_client._Unpacking(folder, LIMITS)
        try:
            zip_client._receive(io.BytesIO(reply), unpacking, "archive.zip")
        finally:
            assert [*Path(parent).iterdir()] == [folder], "a file outside its folder"
            files = [path for path in folder.rglob("*") if not path.is_dir()]
            assert not any(path.is_symlink() for path in files)
            assert sum(path.stat().st_size for path in files) <= LIMITS.unpacked_bytes
        assert len(unpacking.runs) <= LIMITS.members
        for run in unpacking.runs:
            assert run.error or run.path.parent == folder
            assert all(text == printable(text, 300) for text in run.notes)


# -- The parent's side of the pipes: a process that a file took over may send any bytes --------------------------------


def sqlite_reply(data: bytes) -> None:
    """Read a reply of sqlite_worker.py."""
    with _refusable():
        facts, tables = sqlite_client._read_contents(io.BytesIO(data), LIMITS)
        assert sum(table.num_rows * table.num_columns for table in tables.values()) <= LIMITS.values
        texts = (*facts["notes"], *facts["damage"], *facts["ignored"])
        assert all(text == printable(text, len(text) + 1) for text in texts)
        for table in tables.values():
            table.validate(full=True)
        digest = hashlib.sha256(data).hexdigest()

        def use() -> None:
            run = received_run.run_of(Path("a"), "a", digest, (facts, tables), LIMITS)
            _check_run(run)
            _judge_some(run)

        _accept(use)


def zip_reply(data: bytes) -> None:
    """Receive a reply of zip_worker.py."""
    with _refusable():
        _receive(data)


def set_reply(data: bytes) -> None:
    """Receive a part of a set from set_worker.py."""
    with _refusable():
        found = set_client._receive_part(io.BytesIO(data), "set", LIMITS, LIMITS.members)
        assert len(found) <= LIMITS.members
        for each in found:
            assert each.name == printable(each.name, 300)
            for table in each.tables.values():
                table.validate(full=True)

            def use(each: set_client.SetRun = each) -> None:
                run = read_sets._run_of_set(each, Path("set"), LIMITS)
                _check_run(run)
                _judge_some(run)

            _accept(use)


def sql_reply(data: bytes) -> None:
    """Read a reply of sql_worker.py."""
    with _refusable():
        stream = io.BytesIO(data)
        result = user_sql._read_result(stream, user_sql._read_line(stream), RESULT_ROWS)
        assert result.table.num_rows <= RESULT_ROWS
        result.table.validate(full=True)
        for form in ("table", "csv", "json"):
            _accept(lambda form=form: format_rows(result.table, form))
        _accept(lambda: [*result.notes()])


class BrokenContractError(BaseException):
    """Something that was accepted cannot be used; no Exception, which refuses a reply."""


@contextmanager
def _refusable() -> Iterator[None]:
    """Allow any Exception: the callers turn each into a refusal. Not a broken contract, nor a lack of memory."""
    try:
        yield
    except (AssertionError, MemoryError) as error:
        raise BrokenContractError(str(error)) from error
    except Exception:
        return


def _accept(use: Callable[[], Any]) -> None:
    """Use what was accepted. Raises BrokenContractError for any exception but ours."""
    try:
        use()
    except RunFileError:
        return
    except Exception as error:
        raise BrokenContractError(str(error)) from error


class Harness(NamedTuple):
    """A function to fuzz."""

    run: Callable[[bytes], None]
    most: int
    """Bytes of an input."""
    share: int
    """The share of the time: slow ones get more."""
    words: tuple[str, ...] = ()
    """The words that the fuzzer may insert."""
    runs: int = -1
    """Inputs after which a new process goes on: atheris keeps every array that a comparison returns. -1: no limit."""


TABLE_NAMES = ("dynamics", *schema.TABLES)
SQL_WORDS = (
    *TABLE_NAMES,
    *("UPDATE ", " SET ", "INSERT INTO ", " VALUES (", "DELETE FROM ", "DROP TABLE ", "ALTER TABLE ", " RENAME TO "),
    *(" ADD COLUMN ", "CREATE TABLE ", "CREATE VIEW ", "CREATE INDEX ", " AS SELECT ", " WITHOUT ROWID", " STRICT"),
    *(
        "PRAGMA writable_schema=ON",
        "sqlite_master",
        " WHERE ",
        "NULL",
        "x'00'",
        "1e400",
        "9223372036854775807",
        "'text'",
    ),
    *("step", "loss", "expert_0_top_norm", "layer_0_expert_1_top_norm", "source", "rootpage", "rowid", "zeroblob(9)"),
)
REPLY_WORDS = (
    *TABLE_NAMES,
    *('"ok"', '"tables"', '"notes"', '"damage"', '"ignored"', '"ignored_count"', '"version"', '"last_rowids"', '"q?"'),
    *('"d?"', '"t"', '"member"', '"bytes"', '"done"', '"end"', '"beside"', '"set"', '"part"', '"sha256"', '"zips"'),
    *('"columns"', '"rows"', '"more"', '"cut"', '"integer"', '"real"', '"text"', "null", "true", "NaN", "1e999"),
    *('"id"', '"name"', '"duplicates"', '"wal"', '"application_id"', '"number"', '"json"'),
    *("expert_0_top_norm", "expert_1_bottom_norm", "\\ud800", "too_large", "prismatic-set.json", "[[[[", "{}"),
)
FACT_WORDS = (
    *("config.perturbation_scale ", "config.merge ", "config.seed ", "mixture ", "thresholds", "exit_state ", "null"),
    *("planned_steps ", "config.layers ", "config.experts ", "tier_basis", "[]", "{}", "true", "-1", "1e308", "\n\n"),
)
HARNESSES = {
    "sql_file": Harness(sql_file, 600, 4, SQL_WORDS, 20_000),
    "edited_file": Harness(edited_file, 400, 3, runs=20_000),
    "facts": Harness(facts, 1500, 3, FACT_WORDS, 4_000),
    "sqlite_reply": Harness(sqlite_reply, 3000, 2, REPLY_WORDS),
    "archive": Harness(archive, 2000, 1),
    "zip_reply": Harness(zip_reply, 2000, 1, REPLY_WORDS),
    "set_reply": Harness(set_reply, 3000, 1, REPLY_WORDS),
    "sql_reply": Harness(sql_reply, 2000, 1, REPLY_WORDS),
}
