"""Sets: many runs as typed Parquet files in place of their run files, written once and read by every command.

    SET/prismatic-set.json                                   the manifest, of which set_manifest.py tells
    SET/{table}/perturbation_scale={scale}/part-{n}.parquet  rows of some runs, ordered by run

`runs` has a row per run with everything that is known of its file, `dynamics` a row per run, expert and step, `steps`
the columns that belong to no expert, `facts` the table `run`; `layers`, `pairs`, `histograms`, `experts`, `tiers` and
`events` are as in a run file, and so are `packed_layers` and `packed_pairs`, with lists in place of BLOBs. A set lies
in a folder, or in an object store under s3://BUCKET/PREFIX; the AWS_* environment variables give the credentials,
region and endpoint.

A file of a set is believed only if its bytes have the hash that the manifest gives, and `steps` and `dynamics`, which
are joined by their places, must have the same steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prismatic.contract.schema import EXPERT_COLUMN
from validation.files.errors import NotASet
from validation.files.run_file import RUN_TABLES, RunFile, empty_table
from validation.files.set_manifest import (
    MANIFEST,
    PACKED,
    REQUIRED,
    Manifest,
    Part,
    SetLocation,
    damaged_set,
    unknown_file,
)
from validation.files.tables.tidy import COMPARED, COPIED, RUNS, summary, tidy

PART_RUNS, PART_BYTES = 500, 256 << 20
"""Runs, and about the bytes of their tables, in one part: so much is in memory while a set is written or read."""
FACTS = pa.schema([("key", pa.string()), ("value", pa.string())])
RUN_COLUMNS = pa.schema(
    [*RUNS, ("duplicates", pa.int64()), ("wal", pa.bool_()), ("application_id", pa.int64()), ("version", pa.int64())]
    + [(name, pa.string()) for name in ("ignored", "notes", "damage", "columns")]
)
UNUSED = {"dynamics": ("role",)}
"""Columns that queries need, and a run does not."""
NO_HASHES = (
    "an earlier version wrote this set, without checksums: a changed bit in it may go unnoticed; "
    "`prismatic compact` writes it again with them"
)


# -- Writing -----------------------------------------------------------------------------------------------------------


def write_set(runs: Iterable[RunFile], uri: str | Path, *, by_scale: bool = True) -> int:
    """Write runs as a set, and return their number. Raises NotASet if the location holds a set, or without any run.

    by_scale: False for few files, each with the runs of all scales.
    The manifest is written last: an interrupted set has none, and is not taken for a set.
    """
    location = SetLocation.parse(uri)
    if location.has_file(MANIFEST):
        raise NotASet(
            location.uri, "there is a set already", "it was written before", "Choose another place, or remove it"
        )
    count, parts = 0, []
    for number, batch in enumerate(_batches(runs)):
        folders: dict[str, list[RunFile]] = {}
        for run in batch:
            folders.setdefault(f"perturbation_scale={_scale(run)}/" if by_scale else "", []).append(run)
        for folder, members in sorted(folders.items()):
            parts.append(_write_part(location, f"{folder}part-{number:05}", members))
        count += len(batch)
    if not count:
        cause = "none of the sources could be read"
        raise NotASet(location.uri, "there is no run to write", cause, "Fix the errors printed above")
    if location.is_folder and (unknown := unknown_file(location, parts)):
        cause = "another set was being written here, and was interrupted"
        raise NotASet(
            location.uri, f"there is {unknown} of another set", cause, "Remove the folder, and write it again"
        )
    location.write(MANIFEST, Manifest(count, tuple(parts)).as_json().encode())
    return count


def _batches(runs: Iterable[RunFile]) -> Iterator[list[RunFile]]:
    """Yield the runs in lists of at most PART_RUNS, which end where they reach PART_BYTES."""
    batch: list[RunFile] = []
    size = 0
    for run in runs:
        batch.append(run)
        size += sum(getattr(run, table).nbytes for table in ("wide", *RUN_TABLES))
        if len(batch) == PART_RUNS or size >= PART_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _scale(run: RunFile) -> str:
    scale = summary(run)["perturbation_scale"]
    return "unknown" if scale is None else f"{scale:g}"


def _write_part(location: SetLocation, name: str, runs: Sequence[RunFile]) -> Part:
    """Write the files of some runs, and return their part with the hashes of what was to be written."""
    runs = sorted(runs, key=lambda run: run.id)
    tables = {
        "runs": pa.Table.from_pylist([_run_row(run) for run in runs], schema=RUN_COLUMNS),
        "dynamics": pa.concat_tables([part for run in runs for part in tidy(run)]),
        "steps": _with_run(runs, [_steps(run) for run in runs]),
        "facts": _with_run(runs, [_facts(run) for run in runs]),
    }
    for table in RUN_TABLES:
        if table in REQUIRED or any(len(getattr(run, table)) for run in runs):
            tables[table] = _with_run(runs, [getattr(run, table) for run in runs])
    part = Part(name, dict.fromkeys(tables, ""))
    hashes = {}
    for table, rows in tables.items():
        data = _as_parquet(rows)
        hashes[table] = hashlib.sha256(data).hexdigest()
        location.write(part.file(table), data)
    return Part(name, hashes)


def _as_parquet(rows: pa.Table) -> pa.Buffer:
    # The bytes of measured numbers compress by their place in the number; a dictionary of them is a waste.
    floats = [column.name for column in rows.schema if pa.types.is_floating(column.type)]
    others = [name for name in rows.column_names if name not in floats]
    written = pa.BufferOutputStream()
    pq.write_table(rows, written, compression="zstd", use_dictionary=others, use_byte_stream_split=floats or False)
    return written.getvalue()


def _in_dynamics(column: str) -> tuple[int, str] | None:
    """Return the expert and the column of `dynamics` that hold a wide column; None if `steps` holds it."""
    match = EXPERT_COLUMN.fullmatch(column)
    if not match:
        return None
    expert, metric = int(match[1]), match[2]
    if metric == ("perturbed_norm" if expert else "clean_norm"):
        return expert, "norm"
    return (expert, metric) if metric in COPIED or (expert and metric in COMPARED) else None


def _steps(run: RunFile) -> pa.Table:
    return run.wide.select([name for name in run.wide.column_names if not _in_dynamics(name)])


def _run_row(run: RunFile) -> dict[str, Any]:
    """Return the row of `runs`: everything about a run that has no table."""
    plain = {name: getattr(run, name) for name in ("duplicates", "wal", "application_id", "version")}
    notes = [note for note in run.notes if note != NO_HASHES]  # the new set has them
    lists = {"ignored": json.dumps(run.ignored), "notes": json.dumps(notes), "damage": json.dumps(run.damage)}
    return {**summary(run), **plain, **lists, "columns": json.dumps(run.wide.column_names)}


def _facts(run: RunFile) -> pa.Table:
    rows = [{"key": key, "value": json.dumps(value)} for key, value in run.facts.items()]
    return pa.Table.from_pylist(rows, schema=FACTS)


def _with_run(runs: Sequence[RunFile], tables: Sequence[pa.Table]) -> pa.Table:
    """Return the tables concatenated, each row with its run; NULL where a run lacks a column."""
    named = [
        table.add_column(0, "run", pa.repeat(pa.scalar(run.id), len(table)))
        for run, table in zip(runs, tables, strict=True)
    ]
    return pa.concat_tables(named, promote_options="default")


# -- Reading -----------------------------------------------------------------------------------------------------------


def read_part(location: SetLocation, part: Part) -> Iterator[RunFile]:
    """Yield the runs of one part of a manifest. Raises NotASet."""
    try:
        yield from _read_part(location, part)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        # The text of a KeyError is the key alone.
        problem = f"missing: {' '.join(map(str, error.args))}" if isinstance(error, KeyError) else error
        raise damaged_set(location, f"part {part.name}: {problem}") from error


def _read_part(location: SetLocation, part: Part) -> Iterator[RunFile]:
    with contextlib.ExitStack() as stack:
        rows = {}
        for table in part.hashes:
            # Nothing else keeps the file: it is freed after its last row, and may be large.
            found = RowsByRun(open_table(location, part, table), unused=UNUSED.get(table, ()))
            rows[table] = stack.enter_context(contextlib.closing(found))
        for row in rows.pop("runs").all().to_pylist():
            of_run = {table: empty_table(table) for table in PACKED}
            of_run |= {table: found.take(row["run"]) for table, found in rows.items()}
            yield RunFile(
                id=row["run"],
                name=row["name"],
                path=Path(location.uri),
                sha256=row["sha256"],
                wide=_wide(of_run["steps"], of_run["dynamics"], json.loads(row["columns"] or "[]")),
                facts={fact["key"]: json.loads(fact["value"]) for fact in of_run["facts"].to_pylist()},
                **{table: of_run[table] for table in RUN_TABLES},
                ignored=tuple(json.loads(row["ignored"])),
                notes=(*json.loads(row["notes"]), *(() if part.has_hashes else (NO_HASHES,))),
                damage=tuple(json.loads(row.get("damage") or "[]")),  # absent in sets of earlier versions
                **{name: row[name] for name in ("duplicates", "wal", "application_id", "version")},
            )
        if strange := [table for table, found in rows.items() if len(found.all())]:
            raise ValueError(f"table {strange[0]} has rows of no run")


def open_table(location: SetLocation, part: Part, table: str) -> pa.NativeFile:
    """Return one file of a part, open for reading. Raises NotASet if its bytes are not those that were written.

    Bytes that can be checked are read once, into memory: what was hashed is what is read.
    """
    expected = part.hashes[table]
    file = location.open(part.file(table))
    if not expected:
        return file
    with file:
        data = file.read_buffer(file.size())
    if hashlib.sha256(data).hexdigest() != expected:
        raise damaged_set(location, f"{part.file(table)} is not as it was written: its checksum differs")
    return pa.BufferReader(data)


class RowsByRun:
    """The rows of one table of a part, taken run by run, in the order of `runs`: few are in memory at once."""

    def __init__(self, file: pa.NativeFile, *, unused: Collection[str] = ()) -> None:
        """unused: columns to leave out."""
        self._file: pa.NativeFile | None = file
        found = pq.ParquetFile(file, pre_buffer=False)
        columns = [name for name in found.schema_arrow.names if name not in unused]
        self._batches: Iterator[pa.RecordBatch] = found.iter_batches(columns=columns, use_threads=False)
        self._next = found.schema_arrow.empty_table().select(columns)

    def close(self) -> None:
        """Close the file, and free its bytes."""
        self._batches = iter(())
        if self._file is not None:
            self._file.close()
            self._file = None

    def take(self, run: str) -> pa.Table:
        """Return the next rows as long as they are of this run; an empty table if none is."""
        found = [self._next.slice(0, 0)]
        while self._has_next():
            other = pc.index(pc.fill_null(pc.not_equal(self._next["run"], run), True), True).as_py()
            count = other if other >= 0 else len(self._next)
            found.append(self._next.slice(0, count))
            self._next = self._next.slice(count)
            if other >= 0:
                break
        return pa.concat_tables(found).drop_columns(["run"])

    def all(self) -> pa.Table:
        """Return all rows that are left."""
        found = [self._next]
        found += [pa.Table.from_batches([batch]) for batch in self._batches]
        return pa.concat_tables(found)

    def _has_next(self) -> bool:
        """Read on, unless there are rows; return False at the end of the table."""
        while not len(self._next):
            batch = next(self._batches, None)
            if batch is None:
                self.close()
                return False
            self._next = pa.Table.from_batches([batch])
        return True


def _wide(steps: pa.Table, dynamics: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return the wide table again, whose rows `steps` and `dynamics` hold in the same order.

    Raises ValueError if they do not, and KeyError for a column that is missing.
    """
    if not isinstance(columns, list) or "step" not in columns:
        raise ValueError("column `columns` of table runs does not name the columns of a run")
    starts = _starts(steps["step"], dynamics)
    found = {name: steps[name] for name in columns if name in steps.column_names}
    for name in columns:
        if held := _in_dynamics(name):
            expert, metric = held
            found[name] = dynamics[metric].slice(starts.get(expert, 0), len(steps))
            if expert not in starts and len(steps):
                raise ValueError(f"table dynamics has no rows of expert {expert}")
    return pa.table({name: found[name] for name in columns})


def _starts(steps: pa.ChunkedArray, dynamics: pa.Table) -> dict[int, int]:
    """Return the first row of each expert in `dynamics`. Raises ValueError unless each has one row for each step."""
    count = len(steps)
    if steps.type != pa.int64() or steps.null_count or not pc.all(pc.less(steps[:-1], steps[1:]), min_count=0).as_py():
        raise ValueError("column `step` of table steps does not hold growing integers")
    series = pc.run_end_encode(dynamics["expert"].combine_chunks())
    starts = {expert: number * count for number, expert in enumerate(series.values.to_pylist())}
    whole = series.run_ends.to_pylist() == [start + count for start in starts.values()]
    if not whole or not all(dynamics["step"].slice(start, count).equals(steps) for start in starts.values()):
        raise ValueError("tables steps and dynamics do not have the same steps")
    return starts
