"""Untrusted run files in, runs out.

This process reads the bytes of a run file only to hash them; a child process opens it with SQLite, under limits, and
another one unpacks archives of run files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prismatic.contract import schema
from validation.files.dialects import in_our_words
from validation.files.errors import RunFileError, rejection
from validation.files.limits import ReadLimits
from validation.files.run_file import RUN_TABLES, Rejected, RunFile, arrow_schema, own_id
from validation.files.sandbox import parallel_read as halves
from validation.files.sandbox.sqlite_client import Child
from validation.files.sandbox.zip_client import Member, is_archive, unpacked
from validation.text import printable

if TYPE_CHECKING:
    from validation.files.cache import Cache

FACTS, FACT_CHARACTERS = 2000, 64 << 10


def read_files(
    paths: Iterable[Path | tuple[Path, str]],
    *,
    limits: ReadLimits | None = None,
    private: Collection[Path] = (),
    progress: Callable[[int, int], None] | None = None,
    cache: Cache | None = None,
) -> tuple[list[RunFile], list[Rejected]]:
    """Runs of all files, and those that are none with the reason; folders are searched for dynamics.db files.

    A zip archive stands for the run files in it. private: the paths that are copies of our own, which nobody writes. A
    path may come with the name to show. cache: where runs are kept that were read before.
    """
    limits = limits or ReadLimits()
    known = _Known([], {}, set())
    rejected: list[Rejected] = []
    files = list(find_files(paths))
    with contextlib.closing(Child(limits)) as child:
        for done, (path, name, code) in enumerate(files):
            if progress:
                progress(done, len(files))
            try:
                if code:
                    raise rejection(name, code, limits)
                if is_archive(path):
                    _read_archive(child, path, name, known, rejected, cache)
                else:
                    _read(child, path, name, known, cache, private=path in private)
            except RunFileError as error:
                rejected.append(Rejected(name, path, error))
    if progress:
        progress(len(files), len(files))
    return known.runs, rejected


@dataclass(frozen=True)
class _Known:
    """The runs that were read so far, and where among them the next one may be already."""

    runs: list[RunFile]
    places: dict[str, int]  # by the sha256 of the file
    ids: set[str]


def _read(child: Child, path: Path, name: str, known: _Known, cache: Cache | None, *, private: bool) -> None:
    """Adds the run in one file, unless it is there already; RunFileError if the file is none."""
    limits, before = child.limits, _state(path)
    digest = _digest(path, name, limits)
    twin = known.places.get(digest)
    if twin is not None and (private or not (has_wal(path) or has_wal(known.runs[twin].path))):
        again = f"the same file was given again as {name}; it is read once"
        known.runs[twin] = replace(known.runs[twin], notes=(*known.runs[twin].notes, again))
        return
    # Beside a -wal or a -journal the same bytes may mean other rows.
    settled = private or not (has_wal(path) or os.path.exists(f"{path}-journal"))
    kept = cache.get(digest) if cache and settled else None
    if kept is None:
        if cache and not private:
            facts, tables = cache.live.ask(child, path, name)
        else:
            facts, tables = halves.ask(child, path, name, immutable=private)
        kept = _run_file(path, name, digest, facts, tables, limits)
        # One that is being written may hold other rows by now than the bytes that were hashed.
        if cache and settled and kept.facts.get("exit_state") != "running" and _state(path) == before:
            cache.put(kept)
    run = replace(kept, name=name, path=path, run=own_id(kept.run, known.ids))
    if len(run.wide) * run.num_experts > limits.expert_rows:
        raise rejection(name, "too_large", limits, limit="expert_rows")
    known.places.setdefault(digest, len(known.runs))
    known.ids.add(run.run)
    known.runs.append(run)


def _read_archive(
    child: Child, path: Path, name: str, known: _Known, rejected: list[Rejected], cache: Cache | None
) -> None:
    """Adds the runs in an archive, and those of its members that are none; RunFileError if it cannot be opened."""
    with unpacked(path, name, child.limits) as members:
        for member in members:
            before = len(known.runs)
            try:
                if member.error:
                    raise member.error
                _read(child, member.path, member.name, known, cache, private=True)
            except RunFileError as error:
                rejected.append(Rejected(member.name, path, error))
            if len(known.runs) > before:
                _as_its_own_file(known, member, path)


def _as_its_own_file(known: _Known, member: Member, archive: Path) -> None:
    """The newest run as what its archive says of it: a run of a set is the one that its own file would be."""
    run, sha256 = known.runs.pop(), member.said_sha256
    known.ids.discard(run.run)
    last, twin = len(known.runs), known.places.get(sha256, len(known.runs))
    if twin < last and known.runs[twin].wide.equals(run.wide):
        if known.places.get(run.sha256) == last:
            del known.places[run.sha256]
        return
    if sha256 and run.run.startswith(run.sha256[:9]):  # it is called after no hash of its own
        run = replace(run, run=own_id(sha256[:9], known.ids))
    known.ids.add(run.run)
    known.runs.append(replace(run, path=archive, notes=(*run.notes, *member.notes)))


def find_files(paths: Iterable[Path | tuple[Path, str]]) -> Iterator[tuple[Path, str, str]]:
    """Each file with the name to show and, where there is nothing to read, the code of the error."""
    for given in paths:
        path, name = given if isinstance(given, tuple) else (given, "")
        path = Path(path)
        title = printable(name or _last_parts(path))
        try:
            mode = os.stat(path).st_mode
            files = sorted(path.rglob("dynamics.db")) if stat.S_ISDIR(mode) else []
        except FileNotFoundError:
            yield path, title, "missing"
        except (OSError, ValueError):  # ValueError: a NUL in the path
            yield path, title, "system"
        else:
            if not stat.S_ISDIR(mode):
                yield path, title, "" if stat.S_ISREG(mode) else "special"
            elif not files:
                yield path, title, "no_files"
            for file in files:
                yield file, printable(_last_parts(file)), ""


def _last_parts(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def has_wal(path: Path) -> bool:
    """With a -wal beside them, equal files may hold different runs."""
    return os.path.exists(f"{path}-wal")


def _digest(path: Path, name: str, limits: ReadLimits) -> str:
    """sha256 of the file's bytes. Not for a file that this process is writing: closing it ends all its POSIX locks."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > limits.file_bytes:
                raise rejection(name, "too_large", limits, limit="file_bytes")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise rejection(name, "system", limits, problem=error.strerror or "no reason given") from None


def _run_file(
    path: Path,
    name: str,
    digest: str,
    about: dict[str, Any],
    tables: dict[str, pa.Table],
    limits: ReadLimits,
) -> RunFile:
    """The run that the child's tables make."""
    wide, duplicates = _in_order(tables["dynamics"])
    wide = _with_scalars(wide, _whole("scalars", tables.get("scalars")), limits)
    side = {table: _whole(table, tables.get(table)) for table in RUN_TABLES}
    wide, side["layers"], notes = in_our_words(wide, side["layers"], limits.rows)
    about["notes"] += notes
    facts, dropped = _facts(_whole("run", tables.get("run")))
    if dropped:
        about["notes"] += (f"{dropped:,} facts of table `run` were left out: too many, or too long",)
    declared = str(facts.get("run_hash", ""))
    stem = declared if len(declared) >= 6 and set(declared) <= set("0123456789abcdef") else digest
    about |= {"name": name, "path": path, "sha256": digest, "duplicates": duplicates}
    del about["reached"]
    return RunFile(run=stem[:9], wide=wide, facts=facts, **side, **about)


def _state(path: Path) -> tuple[int, int]:
    """What changes when a file is written: time and size."""
    try:
        found = os.stat(path)
    except OSError:  # who reads it next says so
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _in_order(wide: pa.Table) -> tuple[pa.Table, int]:
    """Rows by step, of several rows of one step the last, and how many that drops."""
    steps = wide["step"].to_numpy()
    if (steps[1:] > steps[:-1]).all():
        return wide, 0
    order = np.argsort(steps, kind="stable")
    last = np.append(np.diff(steps[order]) != 0, True)
    return wide.take(pa.array(order[last])), int(len(steps) - last.sum())


def _with_scalars(wide: pa.Table, scalars: pa.Table, limits: ReadLimits) -> pa.Table:
    """The columns that the writer had no room for in the wide table, put beside it."""
    scalars = scalars.filter(pc.and_(pc.is_valid(scalars["step"]), pc.is_valid(scalars["name"])))
    coded = scalars["name"].combine_chunks().dictionary_encode()
    numbered = enumerate(coded.dictionary.to_pylist())
    names = {name: code for code, name in numbered if schema.EXPERT_COLUMN.fullmatch(name)}
    if not names or (wide.num_columns + len(names)) * len(wide) > limits.values:
        return wide
    logged, steps, values = wide["step"].to_numpy(), scalars["step"].to_numpy(), scalars["value"].to_numpy()
    rows = np.searchsorted(logged, steps)
    # What belongs to no row of the wide table is left out.
    codes = np.where(np.isin(steps, logged), coded.indices.to_numpy(), -1)
    order = np.argsort(codes, kind="stable")
    columns = dict(zip(wide.column_names, wide.columns, strict=True))
    for name, code in names.items():
        first, end = np.searchsorted(codes, (code, code + 1), sorter=order)
        column, own = np.full(len(wide), np.nan), order[first:end]
        column[rows[own]] = values[own]
        columns.setdefault(name, pa.array(column, from_pandas=True))
    return pa.table(columns)


def _whole(table: str, found: pa.Table | None) -> pa.Table:
    """A side table with all columns of the schema: NULL where the file lacks one."""
    want = arrow_schema(table)
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
        return None if value is None else json.loads(value, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return value
