"""A set: many runs as typed Parquet files, in place of their run files. Written once, read by every command.

    SET/prismatic-set.json                                   the format, and how many runs
    SET/{table}/perturbation_scale={scale}/part-{n}.parquet  rows of some runs, ordered by run

`runs` has a row per run with everything that is known of its file, `dynamics` a row per run, expert and step, `steps`
the columns that belong to no expert, `facts` the table `run`; `layers`, `histograms`, `experts`, `tiers`, `events` are
as in a run file. A set lies in a folder, or in an object store under s3://BUCKET/PREFIX (credentials, region and
endpoint as the AWS_* environment variables say).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from prismatic.contract.schema import EXPERT_COLUMN
from validation.files.errors import NotASet
from validation.files.read_files import RunFile
from validation.query.database import COMPARED, COPIED, RUNS, empty_connection, shut, summary, tidy

FORMAT = "prismatic-set/1"
MARK = "prismatic-set.json"
SIDE = ("layers", "histograms", "experts", "tiers", "events")
TABLES = ("runs", "dynamics", "steps", "facts", *SIDE)
PART_RUNS = 500  # in one part: so many are in memory at once when a set is written
FACTS = pa.schema([("key", pa.string()), ("value", pa.string())])
ABOUT = pa.schema(
    [*RUNS, ("duplicates", pa.int64()), ("wal", pa.bool_()), ("application_id", pa.int64()), ("version", pa.int64())]
    + [(name, pa.string()) for name in ("ignored", "notes", "columns")]
)


@dataclass(frozen=True)
class Place:
    """Where a set is: a folder, or a prefix in an object store."""

    filesystem: fs.FileSystem
    root: str
    uri: str

    @classmethod
    def of(cls, uri: str | Path) -> Place:
        """A place by path or s3:// address. Raises NotASet for an address that nothing can be at."""
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
        """Whether it is on this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def read_text(self, name: str) -> str | None:
        """A small file of the set; None where it is not there."""
        try:
            with self.filesystem.open_input_stream(f"{self.root}/{name}") as stream:
                return bytes(stream.read()).decode()
        except (OSError, UnicodeDecodeError):
            return None

    def write(self, name: str, data: pa.Table | str) -> None:
        """Write a table or a text; folders are made."""
        path = f"{self.root}/{name}"
        if self.is_folder:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with self.filesystem.open_output_stream(path) as stream:
            if isinstance(data, str):
                stream.write(data.encode())
            else:
                pq.write_table(data, stream, compression="zstd")


def is_set(uri: str | Path) -> bool:
    """Whether a set is there. An s3:// address is always meant as one."""
    return str(uri).startswith("s3://") or Path(uri, MARK).is_file()


def write_set(runs: Iterable[RunFile], uri: str | Path) -> int:
    """Write runs as a set; returns how many. Raises NotASet where there is one already, or no run to write.

    The mark is written last: a set that was interrupted is none.
    """
    place = Place.of(uri)
    if place.read_text(MARK) is not None:
        raise NotASet(
            place.uri, "there is a set already", "it was written before", "Choose another place, or remove it"
        )
    count, number, pending = 0, 0, iter(runs)
    while batch := list(islice(pending, PART_RUNS)):
        for scale in sorted({_scale(run) for run in batch}):
            _write_part(place, f"perturbation_scale={scale}/part-{number:05}", [r for r in batch if _scale(r) == scale])
        count, number = count + len(batch), number + 1
    if not count:
        cause = "none of the sources could be read"
        raise NotASet(place.uri, "there is no run to write", cause, "See what was said about each of them")
    place.write(MARK, json.dumps({"format": FORMAT, "runs": count}))
    return count


def _scale(run: RunFile) -> str:
    scale = summary(run)["perturbation_scale"]
    return "unknown" if scale is None else f"{scale:g}"


def _write_part(place: Place, name: str, runs: Sequence[RunFile]) -> None:
    runs = sorted(runs, key=lambda run: run.run)
    place.write(f"runs/{name}.parquet", pa.Table.from_pylist([_row(run) for run in runs], schema=ABOUT))
    place.write(f"dynamics/{name}.parquet", pa.concat_tables([part for run in runs for part in tidy(run)]))
    place.write(f"steps/{name}.parquet", _together(runs, [_steps(run) for run in runs]))
    place.write(f"facts/{name}.parquet", _together(runs, [_facts(run) for run in runs]))
    for table in SIDE:
        place.write(f"{table}/{name}.parquet", _together(runs, [getattr(run, table) for run in runs]))


def _in_dynamics(column: str) -> tuple[int, str] | None:
    """The expert and the column of `dynamics` that hold this column of a wide table; None where `steps` does."""
    match = EXPERT_COLUMN.fullmatch(column)
    if not match:
        return None
    expert, metric = int(match[1]), match[2]
    if metric == ("perturbed_norm" if expert else "clean_norm"):
        return expert, "norm"
    return (expert, metric) if metric in COPIED or (expert and metric in COMPARED) else None


def _steps(run: RunFile) -> pa.Table:
    return run.wide.select([name for name in run.wide.column_names if not _in_dynamics(name)])


def _row(run: RunFile) -> dict[str, Any]:
    """Everything about a run that is no table of its own."""
    about = {name: getattr(run, name) for name in ("duplicates", "wal", "application_id", "version")}
    lists = {"ignored": json.dumps(run.ignored), "notes": json.dumps(run.notes)}
    return {**summary(run), **about, **lists, "columns": json.dumps(run.wide.column_names)}


def _facts(run: RunFile) -> pa.Table:
    rows = [{"key": key, "value": json.dumps(value)} for key, value in run.facts.items()]
    return pa.Table.from_pylist(rows, schema=FACTS)


def _together(runs: Sequence[RunFile], tables: Sequence[pa.Table]) -> pa.Table:
    """The tables below each other, with the run before each row; what a run has no column of is NULL."""
    named = [
        table.add_column(0, "run", pa.repeat(pa.scalar(run.run), len(table)))
        for run, table in zip(runs, tables, strict=True)
    ]
    return pa.concat_tables(named, promote_options="default")


def read_set(uri: str | Path) -> Iterator[RunFile]:
    """The runs of a set, as they were when it was written. Raises NotASet."""
    place = Place.of(uri)
    promised, found = require(place), 0
    for part in parts(place):
        for run in read_part(place, part):
            found += 1
            yield run
    if found != promised:
        raise damaged(place, f"expected {promised} runs, found {found}")


def damaged(place: Place, seen: object) -> NotASet:
    """The error for a set that is not what its mark promises."""
    cause = "it was damaged, or changed while it was read"
    return NotASet(place.uri, str(seen)[:200], cause, "Write it anew from its run files")


def require(place: Place) -> int:
    """How many runs the set here says that it holds. Raises NotASet unless there is one of a known format."""
    text = place.read_text(MARK)
    try:
        mark = json.loads(text or "")
        found, runs = mark["format"], int(mark.get("runs", 0))
    except (ValueError, KeyError, TypeError):
        raise NotASet(
            place.uri,
            f"found no {MARK}",
            "it is no set of runs, or writing it was interrupted",
            "Write one with `python -m validation compact RUNS... -o DIR`",
        ) from None
    if found != FORMAT:
        raise NotASet(
            place.uri, f"expected {FORMAT}, found {str(found)[:60]}", "another version wrote it", "Write it anew"
        )
    return runs


def parts(place: Place) -> list[str]:
    """The names that the tables' files share, in their order. Raises NotASet."""
    try:
        every = fs.FileSelector(f"{place.root}/runs", allow_not_found=True, recursive=True)
        found = place.filesystem.get_file_info(every)
    except (pa.ArrowException, OSError) as error:
        raise damaged(place, error) from error
    start = len(f"{place.root}/runs/")
    return sorted(info.path[start:].removesuffix(".parquet") for info in found if info.path.endswith(".parquet"))


def read_part(place: Place, part: str) -> Iterator[RunFile]:
    """The runs of one of the `parts` of a set. Raises NotASet."""
    try:
        yield from _read_part(place, part)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise damaged(place, error) from error


def _read_part(place: Place, part: str) -> Iterator[RunFile]:
    tables = {table: _table(place, table, part) for table in TABLES}
    slices = {table: _slices(content) for table, content in tables.items() if table != "runs"}
    for row in tables["runs"].to_pylist():
        own = {table: _slice(tables[table], slices[table].get(row["run"])) for table in slices}
        yield RunFile(
            run=row["run"],
            name=row["name"],
            path=Path(place.uri),
            sha256=row["sha256"],
            wide=_wide(own["steps"], own["dynamics"], json.loads(row["columns"])),
            facts={fact["key"]: json.loads(fact["value"]) for fact in own["facts"].to_pylist()},
            **{table: own[table] for table in SIDE},
            ignored=tuple(json.loads(row["ignored"])),
            notes=tuple(json.loads(row["notes"])),
            **{name: row[name] for name in ("duplicates", "wal", "application_id", "version")},
        )


def _wide(steps: pa.Table, dynamics: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The wide table again: the rows of each expert stand together, in the order of the steps."""
    starts = {expert: start for expert, (start, _) in _slices(dynamics, "expert").items()}
    found = {name: steps[name] for name in columns if name in steps.column_names}
    for name in columns:
        if held := _in_dynamics(name):
            expert, metric = held
            found[name] = dynamics[metric].slice(starts[expert], len(steps)) if len(steps) else dynamics[metric]
    return pa.table({name: found[name] for name in columns})


def _table(place: Place, table: str, part: str) -> pa.Table:
    with place.filesystem.open_input_file(f"{place.root}/{table}/{part}.parquet") as file:
        return pq.read_table(file).combine_chunks()


def _slices(table: pa.Table, by: str = "run") -> dict[Any, tuple[int, int]]:
    """Where the rows of each run stand: the first one and how many. They stand together."""
    if not len(table):
        return {}
    runs = pc.run_end_encode(table[by].combine_chunks())
    ends = runs.run_ends.to_pylist()
    starts = [0, *ends[:-1]]
    return {run: (start, end - start) for run, start, end in zip(runs.values.to_pylist(), starts, ends, strict=True)}


def _slice(table: pa.Table, place: tuple[int, int] | None) -> pa.Table:
    return (table.slice(*place) if place else table.slice(0, 0)).drop_columns(["run"])


def connect_sets(uris: Sequence[str | Path]) -> duckdb.DuckDBPyConnection:
    """Sets as relations of their tables' names. Raises NotASet.

    Of sets in folders only the columns and rows of a question are read, when it is asked: however many runs they hold,
    they need no memory before. Sets in an object store are loaded.
    """
    places = [Place.of(uri) for uri in uris]
    for place in places:
        require(place)
    con = empty_connection()
    folders = [place.root for place in places if place.is_folder]
    con.execute("SET allowed_directories = $folders", {"folders": folders})
    for table in TABLES:
        columns = "*" if table != "facts" else "run, key, coalesce(json_extract_string(value, '$'), value) AS value"
        relations = [f"SELECT {columns} FROM {_relation(con, place, table, i)}" for i, place in enumerate(places)]
        con.execute(f"CREATE VIEW {table} AS {' UNION ALL BY NAME '.join(relations)}")
    shut(con)
    return con


def _relation(con: duckdb.DuckDBPyConnection, place: Place, table: str, number: int) -> str:
    """What stands after FROM for one table of a set."""
    if place.is_folder:
        files = [f"{place.root}/{table}/{part}.parquet" for part in parts(place)]
        quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        return f"read_parquet([{quoted}], union_by_name = true, hive_partitioning = false)"
    con.register("loading", _dataset(place, table))
    con.execute(f"CREATE TABLE {table}_{number} AS SELECT * FROM loading")
    con.unregister("loading")
    return f"{table}_{number}"


def _dataset(place: Place, table: str) -> ds.Dataset:
    """One table of a set, to be scanned lazily."""
    files = [f"{place.root}/{table}/{part}.parquet" for part in parts(place)]
    if not files:
        return ds.dataset(ABOUT.empty_table() if table == "runs" else pa.table({"run": pa.array([], pa.string())}))
    schemas = [pq.read_schema(file, filesystem=place.filesystem) for file in files]
    return ds.dataset(files, schema=pa.unify_schemas(schemas), format="parquet", filesystem=place.filesystem)
