"""Sets: many runs as typed Parquet files in place of their run files, written once and read by every command.

    SET/prismatic-set.json                                   the manifest: the format, and the number of runs
    SET/{table}/perturbation_scale={scale}/part-{n}.parquet  rows of some runs, ordered by run

`runs` has a row per run with everything that is known of its file, `dynamics` a row per run, expert and step, `steps`
the columns that belong to no expert, `facts` the table `run`; `layers`, `pairs`, `histograms`, `experts`, `tiers` and
`events` are as in a run file, and so are `packed_layers` and `packed_pairs`, with lists in place of BLOBs. A set lies
in a folder, or in an object store under s3://BUCKET/PREFIX; the AWS_* environment variables give the credentials,
region and endpoint.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from prismatic.contract.schema import EXPERT_COLUMN, PACKED_TABLES
from validation.files.errors import NotASet
from validation.files.run_file import RUN_TABLES, RunFile, empty_table
from validation.files.tables.tidy import COMPARED, COPIED, RUNS, summary, tidy

FORMAT, WITH_ARRAYS = "prismatic-set/2", "prismatic-set/3"
"""Formats of sets; the second one also has the packed tables of runs with many experts."""
MANIFEST = "prismatic-set.json"
TABLES = ("runs", "dynamics", "steps", "facts", *RUN_TABLES)
PACKED = (*PACKED_TABLES.values(),)  # written only where a run has rows of them
TEXT_BYTES = 1 << 20  # that are read of a small file
PART_RUNS = 500  # runs in one part: this many are in memory at once while a set is written
FACTS = pa.schema([("key", pa.string()), ("value", pa.string())])
RUN_COLUMNS = pa.schema(
    [*RUNS, ("duplicates", pa.int64()), ("wal", pa.bool_()), ("application_id", pa.int64()), ("version", pa.int64())]
    + [(name, pa.string()) for name in ("ignored", "notes", "damage", "columns")]
)


@dataclass(frozen=True)
class SetLocation:
    """The place of a set: a folder, or a prefix in an object store."""

    filesystem: fs.FileSystem
    root: str
    uri: str

    @classmethod
    def parse(cls, uri: str | Path) -> SetLocation:
        """Return the location at a path or s3:// address. Raises NotASet for an invalid address."""
        text = str(uri)
        try:
            if not text.startswith("s3://"):
                return cls(fs.LocalFileSystem(), str(Path(text).absolute()), text)
            filesystem, root = fs.FileSystem.from_uri(text.rstrip("/"))
        except (pa.ArrowException, OSError, ValueError) as error:
            cause = "the address is mistyped, or the store cannot be reached"
            raise NotASet(text, str(error)[:200], cause, "Check it with the store's own tools") from error
        return cls(filesystem, root, text)

    @property
    def is_folder(self) -> bool:
        """True for a set on this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def read_text(self, name: str) -> str | None:
        """Return a small file of the set; None if it is not there."""
        try:
            with self.filesystem.open_input_stream(f"{self.root}/{name}") as stream:
                return bytes(stream.read(TEXT_BYTES)).decode()
        except (OSError, UnicodeDecodeError):
            return None

    def write(self, name: str, data: pa.Table | str) -> None:
        """Write a table or a text, and create its folders."""
        path = f"{self.root}/{name}"
        if self.is_folder:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with self.filesystem.open_output_stream(path) as stream:
            if isinstance(data, str):
                stream.write(data.encode())
            else:
                # The bytes of measured numbers compress by their place in the number; a dictionary of them is a waste.
                floats = [column.name for column in data.schema if pa.types.is_floating(column.type)]
                others = [name for name in data.column_names if name not in floats]
                pq.write_table(
                    data, stream, compression="zstd", use_dictionary=others, use_byte_stream_split=floats or False
                )


def is_set(uri: str | Path) -> bool:
    """Return whether the location holds a set. An s3:// address always counts as one."""
    return str(uri).startswith("s3://") or Path(uri, MANIFEST).is_file()


# -- Writing -----------------------------------------------------------------------------------------------------------


def write_set(runs: Iterable[RunFile], uri: str | Path, *, by_scale: bool = True) -> int:
    """Write runs as a set, and return their number. Raises NotASet if the location holds a set, or without any run.

    by_scale: False for few files, each with the runs of all scales.
    The manifest is written last: an interrupted set has none, and is not taken for a set.
    """
    location = SetLocation.parse(uri)
    if location.read_text(MANIFEST) is not None:
        raise NotASet(
            location.uri, "there is a set already", "it was written before", "Choose another place, or remove it"
        )
    count, number, arrays, pending = 0, 0, False, iter(runs)
    while batch := list(islice(pending, PART_RUNS)):
        folders: dict[str, list[RunFile]] = {}
        for run in batch:
            folders.setdefault(f"perturbation_scale={_scale(run)}/" if by_scale else "", []).append(run)
        for folder, members in sorted(folders.items()):
            _write_part(location, f"{folder}part-{number:05}", members)
            arrays = arrays or any(len(getattr(run, table)) for run in members for table in PACKED)
        count, number = count + len(batch), number + 1
    if not count:
        cause = "none of the sources could be read"
        raise NotASet(location.uri, "there is no run to write", cause, "Fix the errors printed above")
    location.write(MANIFEST, json.dumps({"format": WITH_ARRAYS if arrays else FORMAT, "runs": count}))
    return count


def _scale(run: RunFile) -> str:
    scale = summary(run)["perturbation_scale"]
    return "unknown" if scale is None else f"{scale:g}"


def _write_part(location: SetLocation, name: str, runs: Sequence[RunFile]) -> None:
    runs = sorted(runs, key=lambda run: run.id)
    location.write(f"runs/{name}.parquet", pa.Table.from_pylist([_run_row(run) for run in runs], schema=RUN_COLUMNS))
    location.write(f"dynamics/{name}.parquet", pa.concat_tables([part for run in runs for part in tidy(run)]))
    location.write(f"steps/{name}.parquet", _with_run(runs, [_steps(run) for run in runs]))
    location.write(f"facts/{name}.parquet", _with_run(runs, [_facts(run) for run in runs]))
    for table in RUN_TABLES:
        if table in PACKED and not any(len(getattr(run, table)) for run in runs):
            continue
        location.write(f"{table}/{name}.parquet", _with_run(runs, [getattr(run, table) for run in runs]))


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
    lists = {"ignored": json.dumps(run.ignored), "notes": json.dumps(run.notes), "damage": json.dumps(run.damage)}
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


def read_set(uri: str | Path) -> Iterator[RunFile]:
    """Yield the runs of a set, as they were when it was written. Raises NotASet."""
    location = SetLocation.parse(uri)
    promised, found = read_manifest(location), 0
    for part in list_parts(location):
        for run in read_part(location, part):
            found += 1
            yield run
    if found != promised:
        raise damaged_set(location, f"expected {promised} runs, found {found}")


def damaged_set(location: SetLocation, problem: object) -> NotASet:
    """Return the error for a set that does not hold what its manifest promises."""
    cause = "it was damaged, or changed while it was read"
    return NotASet(location.uri, str(problem)[:200], cause, "Write it again from its run files")


def read_manifest(location: SetLocation) -> int:
    """Return the number of runs that the manifest promises. Raises NotASet without a manifest of a known format."""
    text = location.read_text(MANIFEST)
    try:
        manifest = json.loads(text or "")
        found, runs = manifest["format"], int(manifest.get("runs", 0))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NotASet(
            location.uri,
            f"found no {MANIFEST}",
            "this is not a set of runs, or writing it was interrupted",
            "Write one with `prismatic compact RUNS... -o DIR`",
        ) from None
    if found not in (FORMAT, WITH_ARRAYS):
        problem = f"expected {FORMAT} or {WITH_ARRAYS}, found {str(found)[:60]}"
        raise NotASet(location.uri, problem, "another version wrote it", "Write it again from its run files")
    return runs


def list_parts(location: SetLocation, table: str = "runs") -> list[str]:
    """Return the names that the tables' files share, sorted. Raises NotASet. table: one that some parts may lack."""
    try:
        selector = fs.FileSelector(f"{location.root}/{table}", allow_not_found=True, recursive=True)
        found = location.filesystem.get_file_info(selector)
    except (pa.ArrowException, OSError) as error:
        raise damaged_set(location, error) from error
    start = len(f"{location.root}/{table}/")
    return sorted(info.path[start:].removesuffix(".parquet") for info in found if info.path.endswith(".parquet"))


def read_part(location: SetLocation, part: str) -> Iterator[RunFile]:
    """Yield the runs of one part that `list_parts` returns. Raises NotASet."""
    try:
        yield from _read_part(location, part)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged_set(location, error) from error


def _read_part(location: SetLocation, part: str) -> Iterator[RunFile]:
    with contextlib.ExitStack() as stack:
        there = [table for table in TABLES if table not in PACKED or _has_table(location, table, part)]
        files = {table: stack.enter_context(_open_table(location, table, part)) for table in there}
        rows = {table: RowsByRun(file, at_once=not location.is_folder) for table, file in files.items()}
        for row in rows.pop("runs").all().to_pylist():
            of_run = {table: empty_table(table) for table in PACKED}
            of_run |= {table: found.take(row["run"]) for table, found in rows.items()}
            yield RunFile(
                id=row["run"],
                name=row["name"],
                path=Path(location.uri),
                sha256=row["sha256"],
                wide=_wide(of_run["steps"], of_run["dynamics"], json.loads(row["columns"])),
                facts={fact["key"]: json.loads(fact["value"]) for fact in of_run["facts"].to_pylist()},
                **{table: of_run[table] for table in RUN_TABLES},
                ignored=tuple(json.loads(row["ignored"])),
                notes=tuple(json.loads(row["notes"])),
                damage=tuple(json.loads(row.get("damage") or "[]")),  # absent in sets of earlier versions
                **{name: row[name] for name in ("duplicates", "wal", "application_id", "version")},
            )
        if strange := [table for table, found in rows.items() if len(found.all())]:
            raise ValueError(f"table {strange[0]} has rows of no run")


def _open_table(location: SetLocation, table: str, part: str) -> pa.NativeFile:
    return location.filesystem.open_input_file(f"{location.root}/{table}/{part}.parquet")


def _has_table(location: SetLocation, table: str, part: str) -> bool:
    found = location.filesystem.get_file_info(f"{location.root}/{table}/{part}.parquet")
    return bool(found.type == fs.FileType.File)


class RowsByRun:
    """The rows of one table of a part, taken run by run, in the order of `runs`: few are in memory at once."""

    def __init__(self, file: pa.NativeFile, *, at_once: bool = False) -> None:
        """at_once: fetch the file in few large reads, as a store far away needs it."""
        found = pq.ParquetFile(file, pre_buffer=at_once)
        self._batches = found.iter_batches(use_threads=False)
        self._next = found.schema_arrow.empty_table()

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
        return pa.concat_tables(found).drop_columns(["run"]).combine_chunks()

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
                return False
            self._next = pa.Table.from_batches([batch])
        return True


def _wide(steps: pa.Table, dynamics: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return the wide table again. The rows of each expert are contiguous in `dynamics`, in the order of the steps."""
    starts = _starts(dynamics)
    found = {name: steps[name] for name in columns if name in steps.column_names}
    for name in columns:
        if held := _in_dynamics(name):
            expert, metric = held
            found[name] = dynamics[metric].slice(starts[expert], len(steps)) if len(steps) else dynamics[metric]
    return pa.table({name: found[name] for name in columns})


def _starts(dynamics: pa.Table) -> dict[int, int]:
    """Return the first row of each expert, whose rows are contiguous."""
    experts = pc.run_end_encode(dynamics["expert"].combine_chunks())
    return dict(zip(experts.values.to_pylist(), [0, *experts.run_ends.to_pylist()], strict=False))
