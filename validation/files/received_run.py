"""A RunFile from what a child process sent of it: facts decoded, rows by step, columns by their one name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prismatic.contract import schema
from validation.files.errors import rejection
from validation.files.limits import ReadLimits
from validation.files.run_file import RUN_TABLES, RunFile, arrow_schema, empty_table
from validation.files.sandbox.sqlite_client import FileContents
from validation.files.tables.checksums import changed_columns, without_checksums
from validation.files.tables.dialects import normalize_columns
from validation.files.tables.packed import dense_values, with_expert_means
from validation.text import pluralize

MAX_FACTS, FACT_CHARACTERS = 2000, 64 << 10
DEEPEST, LONGEST_NUMBER = 16, 128  # levels of a fact, and bits of an integer in it; seeds have 64


def run_of(path: Path, name: str, digest: str, contents: FileContents, limits: ReadLimits) -> RunFile:
    """Return the run from the facts and tables of a reading. Raises RunFileError.

    digest: the sha256 of its file.
    """
    header, tables = contents
    tables["run"], recorded = without_checksums(with_all_columns("run", tables.get("run")))
    if recorded is not None and not header["damage"] and (changed := changed_columns(tables, recorded)):
        header["damage"] += (f"not as recorded when the file was closed: {changed}",)
    wide, duplicates = _by_step(tables["dynamics"])
    wide = _with_scalars(wide, with_all_columns("scalars", tables.get("scalars")), limits)
    side = {table: with_all_columns(table, tables.get(table)) for table in RUN_TABLES}
    wide, side["layers"], notes = normalize_columns(wide, side["layers"], limits.rows)
    header["notes"] += notes
    if dense_values(side["packed_layers"], len(wide)) > limits.values:
        raise rejection(name, "too_large", limits, limit="values")
    wide = with_expert_means(wide, side["packed_layers"])
    if not any(name.startswith("expert_") for name in wide.column_names) and _has_roles(wide):
        told = [note for note in (*header["damage"], *header["notes"]) if "packed_layers" in note]
        problem = "; ".join(told) or "no rows of merged gradients"
        raise rejection(name, "no_packed_layers", limits, problem=problem)
    facts, dropped = facts_of(tables["run"])
    if dropped:
        header["notes"] += (f"not read: {pluralize(dropped, 'fact')} of table `run`, too many or too long",)
    declared = str(facts.get("run_hash", ""))
    stem = declared if len(declared) >= 6 and set(declared) <= set("0123456789abcdef") else digest
    header |= {"name": name, "path": path, "sha256": digest, "duplicates": duplicates}
    del header["position"]
    return RunFile(id=stem[:9], wide=wide, facts=facts, **side, **header)


def _has_roles(wide: pa.Table) -> bool:
    """Return whether the wide table holds means by role, as for layers of many experts."""
    return any(map(schema.ROLE_COLUMN.fullmatch, wide.column_names))


def _by_step(wide: pa.Table) -> tuple[pa.Table, int]:
    """Return the rows ordered by step, the last one of each step, and the number of dropped rows."""
    steps = wide["step"].to_numpy()
    if (steps[1:] > steps[:-1]).all():
        return wide, 0
    order = np.argsort(steps, kind="stable")
    last = np.append(np.diff(steps[order]) != 0, True)
    return wide.take(pa.array(order[last])), int(len(steps) - last.sum())


def _with_scalars(wide: pa.Table, scalars: pa.Table, limits: ReadLimits) -> pa.Table:
    """Return the wide table with the columns that the writer had to put into `scalars` for lack of room."""
    if not len(scalars):
        return wide
    scalars = scalars.filter(pc.and_(pc.is_valid(scalars["step"]), pc.is_valid(scalars["name"])))
    coded = scalars["name"].combine_chunks().dictionary_encode()
    numbered = enumerate(coded.dictionary.to_pylist())
    routing = {column.name for column in schema.ROUTING_COLUMNS}
    names = {name: code for code, name in numbered if schema.EXPERT_COLUMN.fullmatch(name) or name in routing}
    if not names or (wide.num_columns + len(names)) * len(wide) > limits.values:
        return wide
    logged, steps, values = wide["step"].to_numpy(), scalars["step"].to_numpy(), scalars["value"].to_numpy()
    rows = np.searchsorted(logged, steps)
    # Scalars of steps that the wide table lacks are dropped.
    codes = np.where(np.isin(steps, logged), coded.indices.to_numpy(), -1)
    order = np.argsort(codes, kind="stable")
    columns = dict(zip(wide.column_names, wide.columns, strict=True))
    for name, code in names.items():
        first, end = np.searchsorted(codes, (code, code + 1), sorter=order)
        column, chosen = np.full(len(wide), np.nan), order[first:end]
        column[rows[chosen]] = values[chosen]
        columns.setdefault(name, pa.array(column, from_pandas=True))
    return pa.table(columns)


def with_all_columns(table: str, found: pa.Table | None) -> pa.Table:
    """Return a side table with all columns of the schema: NULL where the file lacks one."""
    if found is None:
        return empty_table(table)
    want = arrow_schema(table)
    if found.schema == want:
        return found
    columns = [found[f.name] if f.name in found.column_names else pa.nulls(len(found), f.type) for f in want]
    return pa.table(columns, schema=want)


def facts_of(table: pa.Table) -> tuple[dict[str, object], int]:
    """Return table `run` as a dict, and the number of its rows that are over MAX_FACTS or FACT_CHARACTERS."""
    rows = list(zip(table["key"].to_pylist(), table["value"].to_pylist(), strict=True))
    kept = [(key, value) for key, value in rows if key and len(key) <= 200 and len(value or "") <= FACT_CHARACTERS]
    return {key: _decoded(value) for key, value in kept[:MAX_FACTS]}, len(rows) - len(kept[:MAX_FACTS])


def _decoded(value: str | None) -> object:
    """Return the value of a JSON text, or the text itself if it is not JSON or not plain."""
    try:
        found = None if value is None else json.loads(value, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return value
    return found if _is_plain(found, DEEPEST) else value


def _is_plain(value: object, levels: int) -> bool:
    """Return whether a value can be written, compared and sent anywhere: not deep, huge or half a character."""
    if isinstance(value, dict):
        return levels > 0 and all(_is_plain(part, levels - 1) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return levels > 0 and all(_is_plain(part, levels - 1) for part in value)
    if isinstance(value, int):
        return value.bit_length() <= LONGEST_NUMBER
    return not (isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value))
