"""Untrusted run files in, one DuckDB connection out.

This process reads the bytes of a run file only to hash them. A child process (reader.py) opens it with SQLite, under
limits; what that child answers is not trusted either: names, kinds and sizes are checked again before they are used.

    RunFileError          a file that cannot be judged; `id` is the diagnostic's
    +-- NotARun           empty, text, an archive, an image: no SQLite database
    +-- Truncated         cut short or damaged
    +-- WrongSchema       a SQLite database that does not hold a run
    +-- WalMissing        its rows were left behind in the -wal file
    +-- TooLarge          over one of Limits
    +-- Unreadable        missing, forbidden, locked, or reading it broke or outlasted the child
"""

# ruff: noqa: N818  (the errors are named after what is wrong, as the diagnostics are)

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import pyarrow as pa

from prismatic import schema

READER = Path(__file__).with_name("reader.py")
GRACE_SECONDS = 3.0  # the child ends itself at its deadline; what is still alive after this is killed
HEADER_BYTES = 1 << 20
TEXT_BYTES, SIDE_ROWS = 64 << 20, 100_000  # of one side table, as in reader.py
FACTS, FACT_CHARACTERS = 2000, 64 << 10
DUCKDB_MEMORY = "4GB"
INHERITED = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # what Python needs to start


@dataclass(frozen=True)
class Limits:
    """What one file may cost. An error names the limit that was met."""

    file_bytes: int = 512 << 20
    rows: int = 2_000_000
    columns: int = 2000
    values: int = 60_000_000  # rows x columns that are read, all tables
    seconds: float = 20.0
    memory_bytes: int = 1 << 30  # of the child, Python included
    expert_rows: int = 10_000_000  # rows x experts: the length of the tidy table


class RunFileError(Exception):
    """A file that cannot be judged: what was seen, why that happens, what to do."""

    id = "unreadable"

    def __init__(self, name: str, evidence: str, cause: str, fix: str) -> None:
        super().__init__(f"{name}: {evidence}; {cause}. {fix}.")
        self.evidence, self.cause, self.fix = evidence, cause, fix


class NotARun(RunFileError):
    """The file is no SQLite database."""

    id = "not_a_run"


class Truncated(RunFileError):
    """The file was cut short or damaged."""

    id = "truncated"


class WrongSchema(RunFileError):
    """The file is a SQLite database, but not a run."""

    id = "wrong_schema"


class WalMissing(RunFileError):
    """The file's rows were left behind in its -wal file."""

    id = "wal_missing"


class TooLarge(RunFileError):
    """The file is over one of Limits."""

    id = "too_large"


class Unreadable(RunFileError):
    """The file is missing, forbidden or locked, or reading it broke or outlasted the child."""

    id = "unreadable"


RUN_HELP = "`python -m prismatic schema` prints what a run file holds"
COPY_AGAIN = (
    "Copy or upload it again; `python -m prismatic snapshot RUN` makes a whole copy of a run that is in progress"
)
CHOOSE = "Choose the dynamics.db in build/runs/HASH/, unpacked"
WRITE_FLOATS = "Write float(value), as DynamicsLogger does"

# code of reader.py, or of this module -> what it is, what was seen, why that happens, what to do
CASES: dict[str, tuple[type[RunFileError], str, str, str]] = {
    "empty": (
        NotARun,
        "expected a run file (a SQLite database), found an empty file (0 bytes)",
        "the copy or upload failed, or nothing was logged yet",
        COPY_AGAIN,
    ),
    "not_sqlite": (
        NotARun,
        "expected a run file (a SQLite database), found {looks}",
        "another file was chosen, or this one was packed or changed on its way",
        CHOOSE,
    ),
    "truncated": (
        Truncated,
        "expected at least {expected} bytes, as a whole SQLite database has, found {size}",
        "the file was cut short by a copy, an upload or a full disk",
        COPY_AGAIN,
    ),
    "corrupt": (
        Truncated,
        "expected a sound SQLite database, found damage in `{table}` ({problem})",
        "the file was changed while it was copied, or its disk failed",
        COPY_AGAIN,
    ),
    "no_dynamics": (
        WrongSchema,
        "expected a table `dynamics`, found the tables: {tables}",
        "this database was not written by DynamicsLogger",
        f"Choose a dynamics.db; {RUN_HELP}",
    ),
    "not_a_table": (
        WrongSchema,
        "expected `{table}` to be a plain table, found a {kind}",
        "such things run code of the file's author when they are read",
        "Copy its rows into a plain table (CREATE TABLE ... AS SELECT)",
    ),
    "generated": (
        WrongSchema,
        "expected plain columns in `{table}`, found generated ones: {columns}",
        "such columns run code of the file's author when they are read",
        "Copy the rows into a plain table (CREATE TABLE ... AS SELECT)",
    ),
    "no_step": (
        WrongSchema,
        "expected a column `step` in `dynamics`, found: {columns}",
        "this table was not written by DynamicsLogger",
        f"Name the column of optimizer steps `step`; {RUN_HELP}",
    ),
    "no_experts": (
        WrongSchema,
        "expected columns like expert_0_top_norm in `dynamics`, found: {columns}",
        "this table was not written by DynamicsLogger",
        f"Log at least one tier norm of each expert; {RUN_HELP}",
    ),
    "no_known_columns": (
        WrongSchema,
        "expected known columns in `{table}`, found: {columns}",
        "another program wrote this table",
        f"Name its columns as the schema does; {RUN_HELP}",
    ),
    "bad_step": (
        WrongSchema,
        "expected an integer in every row's `step`, found {type} ({value})",
        "the column `step` orders the rows, so none can do without it",
        "Write int(step), as DynamicsLogger does",
    ),
    "bad_value": (
        WrongSchema,
        "expected numbers in column `{column}` of `{table}`, found {type} ({value}) at step {step}",
        "SQLite keeps any type in any column, so the writer stored it as it came",
        WRITE_FLOATS,
    ),
    "numpy_value": (
        WrongSchema,
        "expected numbers in column `{column}` of `{table}`, found a BLOB of {bytes} bytes ({value}) at step {step}",
        "this is what a numpy.float32 (or another NumPy number) becomes when it is written without float()",
        WRITE_FLOATS,
    ),
    "wal_missing": (
        WalMissing,
        "expected logged rows, found none, and the file is in WAL mode without its -wal file",
        "the rows were still in dynamics.db-wal, which was not copied or uploaded with the file",
        "Make a whole file with `python -m prismatic snapshot RUN` and choose that",
    ),
    "too_large": (
        TooLarge,
        "expected at most {most} (limit `{limit}`), found more",
        "the run was logged finely or for very long, or the file is not a run",
        "Thin it out with `python -m validation compact RUN`, or raise the limit",
    ),
    "together": (
        TooLarge,
        "expected them to fit into {most} of memory, found that they do not",
        "many long runs were chosen at once",
        "Choose fewer, or thin them out with `python -m validation compact RUN`",
    ),
    "timeout": (
        Unreadable,
        "expected it to be read within {seconds} seconds (limit `seconds`), found it still being read",
        "the file is very large, damaged, or made to be slow",
        "Try again on an idle machine, or thin it out with `python -m validation compact RUN`",
    ),
    "died": (
        Unreadable,
        "expected values, found that the process that reads files ended ({problem})",
        "the file is damaged or hostile, or the machine ran out of memory",
        COPY_AGAIN,
    ),
    "locked": (
        Unreadable,
        "expected to read it, found it locked by another program",
        "a writer keeps a transaction open",
        "Try again when the writer is done",
    ),
    "unfinished": (
        Unreadable,
        "expected a finished database, found a -journal file with an unfinished write beside it",
        "the program that wrote it was killed",
        "Run `python -m prismatic snapshot RUN` where it was written: that repairs it",
    ),
    "missing": (Unreadable, "expected a file, found nothing there", "it was moved or its name misspelt", CHOOSE),
    "special": (Unreadable, "expected a file, found a device or pipe", "only regular files can be runs", CHOOSE),
    "no_files": (
        Unreadable,
        "expected a folder with files named dynamics.db at any depth, found none",
        "another folder was chosen, or nothing was logged yet",
        "Choose build/runs, or a dynamics.db itself",
    ),
    "system": (
        Unreadable,
        "expected to read it, found that the system refuses ({problem})",
        "permissions or the disk forbid it",
        "Allow this program to read it, or copy it",
    ),
    "unexpected": (
        Unreadable,
        "expected a run file, found what no reader could make sense of ({problem})",
        "the file is damaged, hostile, or newer than this program's SQLite",
        COPY_AGAIN,
    ),
}


@dataclass(frozen=True, eq=False)
class RunFile:
    """One run as its file holds it. All names and texts are the author's: data, never markup, SQL or a path."""

    run: str  # short id, unique among the files that were read together
    name: str  # what the user calls the file, for showing only
    path: Path
    sha256: str  # of the main file; a live file may have grown since
    wide: pa.Table  # `step` int64, the rest float64, ordered by step, each step once
    facts: dict[str, object]
    experts: pa.Table
    tiers: pa.Table
    events: pa.Table
    layers: pa.Table
    duplicates: int  # rows dropped because a later row has the same step
    ignored: tuple[str, ...]  # columns that were not read
    notes: tuple[str, ...]  # what else was left out, in sentences
    wal: bool  # in WAL mode and read without its -wal: rows may be missing
    application_id: int = 0
    version: int = 0  # PRAGMA user_version: the schema's

    @property
    def config(self) -> dict[str, object]:
        """The options of the training: `config.NAME` of the facts."""
        return {key.removeprefix("config."): value for key, value in self.facts.items() if key.startswith("config.")}

    @property
    def expert_ids(self) -> tuple[int, ...]:
        """The experts that have at least one known column: 0, 1, 2, ... unless the file has gaps."""
        known = {metric.name for metric in schema.METRICS}
        matches = [schema.EXPERT_COLUMN.fullmatch(name) for name in self.wide.column_names]
        return tuple(sorted({int(match[1]) for match in matches if match and match[2] in known}))

    @property
    def num_experts(self) -> int:
        """How many experts the file has columns of."""
        return len(self.expert_ids)


@dataclass(frozen=True)
class Rejected:
    """A file that was not read, and why."""

    name: str
    path: Path
    error: RunFileError


# -- Words -------------------------------------------------------------------------------------------------------------


def _shown(value: object, most: int = 60) -> str:
    """Untrusted text for showing: no control, direction or private characters, not longer than `most`."""
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value[:20]) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 2**64 else "a huge number"
    if isinstance(value, float):
        return f"{value:,g}"
    bad = ("C", "Zl", "Zp")
    text = "".join("\ufffd" if unicodedata.category(c).startswith(bad) else c for c in str(value)[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def _case(
    code: object, details: object, *, limits: Limits, table: str = "dynamics"
) -> tuple[type[RunFileError], str, str, str]:
    """Kind and sentences of a rejection; `code` and `details` come from the child and may be anything."""
    facts = {"table": table, "seconds": limits.seconds, **(details if isinstance(details, dict) else {})}
    facts.setdefault("most", asdict(limits).get(str(facts.get("limit"))))
    if code == "bad_value" and facts.get("type") == "BLOB" and facts.get("bytes") in (4, 8):
        code = "numpy_value"
    kind, evidence, cause, fix = CASES.get(str(code), CASES["unexpected"])
    shown = defaultdict(lambda: "?", {str(key): _shown(value, 200) for key, value in facts.items()})
    return kind, evidence.format_map(shown), cause, fix


def _error(name: str, code: str, limits: Limits, **details: object) -> RunFileError:
    kind, evidence, cause, fix = _case(code, details, limits=limits)
    return kind(name, evidence, cause, fix)


# -- The child ---------------------------------------------------------------------------------------------------------


class _Broken(Exception):
    """The child's answer ended early or breaks the protocol."""


class _Child:
    """A process that runs reader.py: one for a whole batch, replaced after a file that kills or hangs it."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
            command = [sys.executable, "-I", "-S", "-B", str(READER)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd=os.path.abspath(os.sep),
            )
        return self._process

    def close(self) -> None:
        """Ends the process, if there is one: it leaves when its stdin ends, unless it hangs."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin
        assert process.stdout
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def ask(self, path: Path, name: str, immutable: bool) -> tuple[dict[str, Any], dict[str, pa.Table]]:
        """Facts and tables of one file; RunFileError if it is rejected or the child does not survive it."""
        process, started = self._start(), time.monotonic()
        timer = threading.Timer(self.limits.seconds + GRACE_SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdin
            assert process.stdout
            process.stdin.write(_request(path, immutable, self.limits))
            process.stdin.flush()
            return _answer(process.stdout, name, self.limits)
        except RunFileError:
            raise
        except Exception as error:  # a child that was taken over may answer anything
            self.close()
            late = time.monotonic() - started > self.limits.seconds
            problem = f"{str(error) or type(error).__name__}, exit code {process.returncode}"
            code = "timeout" if late else "died"
            raise _error(name, code, self.limits, problem=problem) from None
        finally:
            timer.cancel()


def _request(path: Path, immutable: bool, limits: Limits) -> bytes:
    tables = {table: {column.name: column.type for column in columns} for table, (columns, _) in schema.TABLES.items()}
    columns = [column.name for column in schema.STEP_COLUMNS]
    file = {"path": os.path.abspath(path), "immutable": immutable}
    return json.dumps({**file, "limits": asdict(limits), "columns": columns, "tables": tables}).encode() + b"\n"


def _answer(stream: IO[bytes], name: str, limits: Limits) -> tuple[dict[str, Any], dict[str, pa.Table]]:
    """Reads one answer: a header that is believed only where it can be checked, then as many bytes as that implies."""
    line = stream.readline(HEADER_BYTES)
    if not line.endswith(b"\n"):
        raise _Broken("no answer" if not line else "an answer without end")
    header = json.loads(line)
    if header["ok"] is not True:
        kind, evidence, cause, fix = _case(header["code"], header["details"], limits=limits)
        raise kind(name, evidence, cause, fix)
    layouts = header["tables"]
    for table, (rows, columns) in layouts.items():
        _check_layout(table, rows, columns, limits)
    if sum(rows * len(columns) for rows, columns in layouts.values()) > limits.values:
        raise _Broken("an answer beyond the limits")
    tables = {
        table: pa.table({column: _read_column(stream, kind, rows) for column, kind in columns})
        for table, (rows, columns) in layouts.items()
    }
    if "dynamics" not in tables or "step" not in tables["dynamics"].column_names:
        raise _Broken("an answer without steps")
    return _facts_about(header, limits), tables


def _facts_about(header: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """What a header says beside the tables, as RunFile keeps it."""
    notes = []
    for table, code, details in header["notes"][: len(schema.TABLES)]:
        _, evidence, _, _ = _case(code, details, limits=limits, table=_shown(table))
        notes.append(f"table `{_shown(table)}` was left out: {evidence}")
    if (unnamed := int(header["ignored_count"]) - 50) > 0:
        notes.append(f"{unnamed:,} more columns were not read")
    if (version := int(header["version"])) > schema.SCHEMA_VERSION:
        notes.append(f"written by schema version {_shown(version)}, newer than the {schema.SCHEMA_VERSION} known here")
    ignored = tuple(_shown(column) for column in header["ignored"][:50])
    lost, application = bool(header["lost"]), int(header["application_id"])
    return {"ignored": ignored, "notes": tuple(notes), "wal": lost, "application_id": application, "version": version}


def _type_of(table: str, name: str) -> str:
    """SQL type that the project gives a column of a file; _Broken for a column it does not know."""
    if table == "dynamics":
        match = schema.EXPERT_COLUMN.fullmatch(name)
        expert = match is not None and name.isascii() and len(name) < 80 and match[1] == str(int(match[1]))
        known = {column.name: "REAL" for column in schema.STEP_COLUMNS} | {"step": "INTEGER"}
        found = "REAL" if expert else known.get(name)
    else:
        found = next((column.type for column in schema.TABLES[table][0] if column.name == name), None)
    if found is None:
        raise _Broken("an answer with an unknown column")
    return found


def _check_layout(table: str, rows: int, columns: list[list[str]], limits: Limits) -> None:
    """What a header says of one table: everything that is read afterwards follows from it."""
    names, kinds = [name for name, _ in columns], {"INTEGER": "q", "REAL": "d", "TEXT": "t"}
    most = limits.rows if table in ("dynamics", "layers") else SIDE_ROWS
    if type(rows) is not int or not 0 <= rows <= most or len(set(names)) < len(names) or len(names) > limits.columns:
        raise _Broken("an answer beyond the limits")
    if any(kind != kinds[_type_of(table, name)] for name, kind in columns):
        raise _Broken("an answer with wrong columns")


def _read_column(stream: IO[bytes], kind: str, rows: int) -> pa.Array:
    """One column, as the head of reader.py describes it."""
    if kind == "d":
        return pa.array(_take(stream, rows, np.float64), from_pandas=True)  # NaN to NULL
    if kind == "q":
        values, present = _take(stream, rows, np.int64), _take(stream, rows, np.uint8)
        return pa.array(values, mask=present == 0)
    lengths = _take(stream, rows, np.int32)
    ends = np.cumsum(np.maximum(lengths, 0), dtype=np.int64)
    total = int(ends[-1]) if rows else 0
    if total > TEXT_BYTES:
        raise _Broken("an answer beyond the limits")
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    valid = pa.array(lengths >= 0).buffers()[1]
    texts = pa.StringArray.from_buffers(
        rows, pa.py_buffer(offsets), pa.py_buffer(_take(stream, total, np.uint8)), valid
    )
    texts.validate(full=True)  # that it is UTF-8
    return texts


def _take(stream: IO[bytes], count: int, dtype: type[np.generic]) -> np.ndarray:
    """The next `count` numbers of the stream."""
    values = np.empty(count, dtype)
    view, filled = values.data.cast("B") if count else memoryview(b""), 0
    while filled < len(view):
        got = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not got:
            raise _Broken("an answer that ends early")
        filled += got
    return values


# -- Files to runs -----------------------------------------------------------------------------------------------------


def read_files(
    paths: Iterable[Path | tuple[Path, str]],
    *,
    limits: Limits = Limits(),
    immutable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[RunFile], list[Rejected]]:
    """Runs of all files, and those that are none with the reason; folders are searched for dynamics.db files.

    `immutable` says that the files are private copies that nobody writes. A path may come with the name to show.
    """
    runs: list[RunFile] = []
    rejected: list[Rejected] = []
    files = list(_find(paths))
    with contextlib.closing(_Child(limits)) as child:
        for done, (path, name, code) in enumerate(files):
            if progress:
                progress(done, len(files))
            try:
                if code:
                    raise _error(name, code, limits)
                digest = _digest(path, name, limits)
                twin = next((i for i, run in enumerate(runs) if run.sha256 == digest), None)
                if twin is not None and (immutable or not (_has_wal(path) or _has_wal(runs[twin].path))):
                    again = f"the same file was given again as {name}; it is read once"
                    runs[twin] = replace(runs[twin], notes=(*runs[twin].notes, again))
                    continue
                facts, tables = child.ask(path, name, immutable)
                run = _run_file(path, name, digest, facts, tables, {run.run for run in runs})
                if len(run.wide) * run.num_experts > limits.expert_rows:
                    raise _error(name, "too_large", limits, limit="expert_rows")
                runs.append(run)
            except RunFileError as error:
                rejected.append(Rejected(name, path, error))
    if progress:
        progress(len(files), len(files))
    return runs, rejected


def _find(paths: Iterable[Path | tuple[Path, str]]) -> Iterator[tuple[Path, str, str]]:
    """Each file with the name to show and, where there is nothing to read, the code of the error."""
    for given in paths:
        path, name = given if isinstance(given, tuple) else (given, "")
        path = Path(path)
        shown = _shown(name or _last_parts(path))
        try:
            mode = os.stat(path).st_mode
            files = sorted(path.rglob("dynamics.db")) if stat.S_ISDIR(mode) else []
        except FileNotFoundError:
            yield path, shown, "missing"
        except (OSError, ValueError):  # ValueError: a NUL in the path
            yield path, shown, "system"
        else:
            if not stat.S_ISDIR(mode):
                yield path, shown, "" if stat.S_ISREG(mode) else "special"
            elif not files:
                yield path, shown, "no_files"
            for file in files:
                yield file, _shown(_last_parts(file)), ""


def _last_parts(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def _has_wal(path: Path) -> bool:
    """With a -wal beside them, equal files may hold different runs."""
    return os.path.exists(f"{path}-wal")


def _digest(path: Path, name: str, limits: Limits) -> str:
    """sha256 of the file's bytes. Not for a file that this process is writing: closing it ends all its POSIX locks."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > limits.file_bytes:
                raise _error(name, "too_large", limits, limit="file_bytes")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _error(name, "system", limits, problem=error.strerror or "no reason given") from None


def _run_file(
    path: Path, name: str, digest: str, about: dict[str, Any], tables: dict[str, pa.Table], taken: set[str]
) -> RunFile:
    """The run that the child's tables make, under an id that is not in `taken`."""
    wide, duplicates = _in_order(tables["dynamics"])
    side = {table: _whole(table, tables.get(table)) for table in ("experts", "tiers", "events", "layers")}
    facts, dropped = _facts(_whole("run", tables.get("run")))
    if dropped:
        about["notes"] += (f"{dropped:,} facts of table `run` were left out: too many, or too long",)
    declared = str(facts.get("run_hash", ""))
    stem = declared if len(declared) >= 6 and set(declared) <= set("0123456789abcdef") else digest
    number = 1
    while (run := stem[:9] + (f"-{number}" if number > 1 else "")) in taken:
        number += 1
    return RunFile(
        run=run, name=name, path=path, sha256=digest, wide=wide, facts=facts, duplicates=duplicates, **side, **about
    )


def _in_order(wide: pa.Table) -> tuple[pa.Table, int]:
    """Rows by step, of several rows of one step the last, and how many that drops."""
    steps = wide["step"].to_numpy()
    if (steps[1:] > steps[:-1]).all():
        return wide, 0
    order = np.argsort(steps, kind="stable")
    last = np.append(np.diff(steps[order]) != 0, True)
    return wide.take(pa.array(order[last])), int(len(steps) - last.sum())


def _arrow_schema(table: str) -> pa.Schema:
    types = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string()}
    return pa.schema([(column.name, types[column.type]) for column in schema.TABLES[table][0]])


def _whole(table: str, found: pa.Table | None) -> pa.Table:
    """A side table with all columns of the schema: NULL where the file lacks one."""
    want = _arrow_schema(table)
    if found is None:
        return want.empty_table()
    columns = [found[f.name] if f.name in found.column_names else pa.nulls(len(found), f.type) for f in want]
    return pa.table(columns, schema=want)


def _facts(table: pa.Table) -> tuple[dict[str, object], int]:
    """Table `run` as a dict, and how many of its rows are too long or too many to be facts."""
    rows = list(zip(table["key"].to_pylist(), table["value"].to_pylist(), strict=True))
    kept = [(key, value) for key, value in rows if key and len(key) <= 200 and len(value or "") <= FACT_CHARACTERS]
    return {key: _decoded(value) for key, value in kept[:FACTS]}, len(rows) - len(kept[:FACTS])


def _decoded(value: str | None) -> object:
    """What JSON says, or the text itself where it is none."""
    try:
        return None if value is None else json.loads(value)
    except (ValueError, RecursionError):
        return value


# -- Runs to DuckDB ----------------------------------------------------------------------------------------------------

COPIED = ("top_norm", "bottom_norm", "middle_norm", "routing_weight", "bottom_to_middle")
COMPARED = ("divergence", "relative_divergence", "direction")  # with expert 0, which has none itself

RUNS = pa.schema(
    [(name, pa.string()) for name in ("run", "name", "file", "sha256")]
    + [(name, pa.int64()) for name in ("steps", "first_step", "last_step")]
    + [("experts", pa.int32()), ("seed", pa.int64()), ("perturbation_scale", pa.float64()), ("sparsity", pa.float64())]
    + [("merge", pa.string()), ("routing", pa.string())]
)
DYNAMICS = pa.schema(
    [("run", pa.string()), ("step", pa.int64()), ("expert", pa.int32()), ("role", pa.string())]
    + [(name, pa.float64()) for name in (*COPIED[:3], "norm", *COPIED[3:], *COMPARED, "loss")]
)
LAYERS = pa.schema([("run", pa.string()), *_arrow_schema("layers")])


def connect(runs: Sequence[RunFile]) -> duckdb.DuckDBPyConnection:
    """An in-memory database of `runs` (a row per file), `dynamics` (a row per step and expert) and `layers`.

    It can open nothing outside itself. Take `con.cursor()` in each thread, as `queries.ask` does. Raises TooLarge where
    the runs do not fit into memory together.
    """
    settings: dict[str, Any] = {
        "memory_limit": DUCKDB_MEMORY,
        "threads": str(min(4, os.cpu_count() or 1)),
        "temp_directory": "",
    }
    settings |= {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    con = duckdb.connect(":memory:", config=settings)
    tables = {
        "runs": pa.Table.from_pylist([_summary(run) for run in runs], schema=RUNS),
        "dynamics": pa.concat_tables([DYNAMICS.empty_table(), *(part for run in runs for part in _tidy(run))]),
        "layers": pa.concat_tables([LAYERS.empty_table(), *(_layers(run) for run in runs)]),
    }
    try:
        for name, table in tables.items():
            con.register("loading", table)
            con.execute(f"CREATE TABLE {name} AS SELECT * FROM loading")  # the three names above: none is a file's
            con.unregister("loading")
    except duckdb.OutOfMemoryException:
        con.close()
        raise _error("all runs together", "together", Limits(), most=DUCKDB_MEMORY) from None
    for setting in ("python_enable_replacements=false", "enable_external_access=false", "lock_configuration=true"):
        con.execute(f"SET {setting}")
    return con


def _summary(run: RunFile) -> dict[str, object]:
    """The row of `runs`."""
    steps, options = run.wide["step"], {**run.facts, **run.config}
    return {
        "run": run.run,
        "name": run.name,
        "file": run.path.name,
        "sha256": run.sha256,
        "steps": len(steps),
        "first_step": steps[0].as_py() if len(steps) else None,
        "last_step": steps[-1].as_py() if len(steps) else None,
        "experts": run.num_experts,
        "seed": _integer(options.get("seed")),
        "perturbation_scale": _real(options.get("perturbation_scale")),
        "sparsity": _real(options.get("sparsity")),
        "merge": _text(options.get("merge")),
        "routing": _text(options.get("routing")),
    }


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def _real(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > sys.float_info.max:
        return None
    return float(value)


def _text(value: object) -> str | None:
    return _shown(value) if isinstance(value, str) else None


def _layers(run: RunFile) -> pa.Table:
    names = pa.repeat(pa.scalar(run.run), len(run.layers))
    return pa.table([names, *run.layers.columns], schema=LAYERS)


Columns = dict[
    str, pa.ChunkedArray
]  # of one wide table: Arrow's own look-up by name takes milliseconds at 2000 columns


def _columns(run: RunFile) -> Columns:
    return dict(zip(run.wide.column_names, run.wide.columns, strict=True))


def _tidy(run: RunFile) -> Iterator[pa.Table]:
    """The rows of `dynamics`, a table for each expert; NULL where the file lacks a column."""
    wide, rows = _columns(run), len(run.wide)
    nothing, name, roles = pa.nulls(rows, pa.float64()), pa.repeat(pa.scalar(run.run), rows), _roles(run)
    for expert in run.expert_ids:
        names = (*COPIED, *COMPARED) if expert else COPIED
        found = {name: wide.get(f"expert_{expert}_{name}") for name in names}
        found |= {"run": name, "step": wide["step"], "norm": _whole_norm(wide, expert), "loss": wide.get("loss")}
        if expert and found["divergence"] is None:
            found["divergence"] = _derived_divergence(wide, expert)
        found["expert"] = pa.repeat(pa.scalar(expert, pa.int32()), rows)
        found["role"] = pa.repeat(pa.scalar(roles.get(expert, "perturbed" if expert else "clean")), rows)
        columns = [found.get(name) for name in DYNAMICS.names]
        yield pa.table([nothing if column is None else column for column in columns], schema=DYNAMICS)


def _roles(run: RunFile) -> dict[int, str]:
    """The roles that the file names, if they are ones."""
    named = zip(run.experts["expert"].to_pylist(), run.experts["role"].to_pylist(), strict=True)
    return {expert: role for expert, role in named if role in schema.ROLES}


def _tiers(wide: Columns, expert: int) -> dict[str, np.ndarray]:
    """The tier norms that the file has of this expert; NaN is NULL."""
    names = {tier: f"expert_{expert}_{tier}_norm" for tier in schema.TIERS}
    return {tier: wide[name].to_numpy() for tier, name in names.items() if name in wide}


def _whole_norm(wide: Columns, expert: int) -> pa.ChunkedArray | pa.Array | None:
    """Norm of the whole gradient: as logged, else of the three tiers, which part the weights among them."""
    for whole in ("perturbed_norm", "clean_norm") if expert else ("clean_norm", "perturbed_norm"):
        if f"expert_{expert}_{whole}" in wide:
            return wide[f"expert_{expert}_{whole}"]
    tiers = _tiers(wide, expert)
    if len(tiers) < len(schema.TIERS):
        return None
    with np.errstate(over="ignore"):  # hypot, not squares: the square of 1e200 is infinite, that norm is not
        return pa.array(np.hypot(np.hypot(tiers["top"], tiers["bottom"]), tiers["middle"]), from_pandas=True)


def _derived_divergence(wide: Columns, expert: int) -> pa.Array | None:
    """Mean over the tiers that both experts have of |norm_i - norm_0|, as the documentation defines it."""
    own, clean = _tiers(wide, expert), _tiers(wide, 0)
    shared = [tier for tier in own if tier in clean]
    if not shared:
        return None
    with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity is NaN, and NULL
        return pa.array(np.mean([np.abs(own[tier] - clean[tier]) for tier in shared], axis=0), from_pandas=True)
