"""Packed tables of hostile and damaged files: arrays of wrong lengths are named, and nothing is read from them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.support.packed_runs import log_packed, unpacked_copy
from tests.support.set_files import read_in_process
from validation.files.cache import Cache
from validation.files.limits import ReadLimits
from validation.files.parquet_set import write_set
from validation.files.read_files import read_files
from validation.files.run_file import RunFile, arrow_schema
from validation.files.sandbox.incremental_read import IncrementalReader
from validation.files.set_manifest import MANIFEST
from validation.files.sources import read_sources
from validation.files.tables.packed import layers_of, pairs_of, unpacked
from validation.query.database import connect
from validation.query.relations import connect_relations
from validation.query.set_database import relations_of_sets

ROLES = ["clean", *["perturbed"] * 31, "control"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return log_packed(tmp_path_factory.mktemp("packed") / "dynamics.db", roles=ROLES, steps=6, probe_every=3)


@pytest.fixture(scope="module")
def run(packed: Path) -> RunFile:
    (found,), rejected = read_files([packed])
    assert rejected == []
    return found


def changed(packed: Path, tmp_path: Path, *statements: str) -> Path:
    path = tmp_path / "dynamics.db"
    path.write_bytes(packed.read_bytes())
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM run WHERE key = 'checksums'")
        for statement in statements:
            db.execute(statement)
        db.commit()
    return path


SET = "UPDATE packed_layers SET"
AT = "WHERE step = 20 AND layer = 1 AND source = 'merged'"
HOSTILE = {
    "a byte short": (f"{SET} norm = substr(norm, 2) {AT}", "132 bytes for 33 experts in column `norm`", "131 bytes"),
    "an expert short": (f"{SET} norm = substr(norm, 5) {AT}", "132 bytes for 33 experts", "128 bytes at step 20"),
    "too long": (f"{SET} top_norm = zeroblob(264) {AT}", "column `top_norm`", "264 bytes"),
    "empty": (f"{SET} norm = x'' {AT}", "132 bytes for 33 experts", "0 bytes"),
    "a text": (f"{SET} norm = 'abc' {AT}", "expected a BLOB in column `norm`", "a text at step 20"),
    "a number": (f"{SET} norm = 0.5 {AT}", "expected a BLOB in column `norm`", "a number at step 20"),
    "no experts": (f"{SET} experts = 0", "1 to 10000 experts", "found 0"),
    "too many experts": (f"{SET} experts = 4000000, norm = zeroblob(16000000) {AT}", "1 to 10000 experts", "4,000,000"),
    "fewer than none": (f"{SET} experts = -33 {AT}", "1 to 10000 experts", "-33"),
    "unknown number": (f"{SET} experts = NULL {AT}", "1 to 10000 experts", "found NULL at step 20"),
    "a word": (f"{SET} experts = 'many' {AT}", "expected numbers in column `experts`", "TEXT ('many')"),
    "no column experts": (
        "ALTER TABLE packed_layers DROP COLUMN experts",
        "expected known columns in `packed_layers`",
        "top_norm",
    ),
    "no table": ("DROP TABLE packed_layers", "found only means by role", "no rows of merged gradients"),
    "no rows": ("DELETE FROM packed_layers", "found only means by role", "no rows of merged gradients"),
    "other steps": (f"{SET} step = step + 1", "found only means by role", "no rows of merged gradients"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_arrays_that_are_not_what_their_row_says_are_named(packed: Path, tmp_path: Path, case: str):
    statement, *words = HOSTILE[case]
    found, (rejected,) = read_files([changed(packed, tmp_path, statement)])
    assert found == []
    assert all(word in str(rejected.error) for word in words), str(rejected.error)


def test_a_view_in_place_of_the_table_is_refused(packed: Path, tmp_path: Path):
    path = changed(packed, tmp_path, "DROP TABLE packed_layers", "CREATE VIEW packed_layers AS SELECT * FROM dynamics")
    (rejected,) = read_files([path])[1]
    assert "found a view" in str(rejected.error)


def test_bad_arrays_of_pairs_are_damage(packed: Path, tmp_path: Path):
    path = changed(packed, tmp_path, "UPDATE packed_pairs SET other = substr(other, 3) WHERE step = 30")
    (run,), _ = read_files([path])
    (damage,) = run.damage
    assert "`packed_pairs` was not read" in damage
    assert "112 bytes for 28 pairs in column `other`" in damage


def test_few_rows_cannot_ask_for_much_memory(packed: Path, tmp_path: Path):
    copies = [
        "INSERT INTO packed_layers (step, layer, source, experts, norm) "
        f"SELECT 0, {layer}, 'merged', 9000, zeroblob(36000)"
        for layer in range(2, 30)
    ]
    (rejected,) = read_files([changed(packed, tmp_path, *copies)], limits=ReadLimits(values=1_000_000))[1]
    assert "(limit `values`)" in str(rejected.error)


def test_a_flipped_bit_in_an_array_is_damage(packed: Path, tmp_path: Path, run: RunFile):
    data = bytearray(packed.read_bytes())
    needle = np.asarray(run.packed_layers["norm"][3].as_py(), dtype="<f4").tobytes()
    place = data.find(needle)
    assert place > 0
    data[place + 5] ^= 1
    path = tmp_path / "dynamics.db"
    path.write_bytes(data)
    (found,), _ = read_files([path])
    assert found.damage == ("not as recorded when the file was closed: packed_layers.norm",)


@pytest.mark.long
def test_the_cache_and_a_set_give_the_same_arrays(packed: Path, run: RunFile, tmp_path: Path):
    cache = Cache(tmp_path / "cache")
    for _ in range(2):  # the second time from the cache
        (cached,), _ = read_files([packed], cache=cache)
        assert same(cached, run)
    assert write_set([run], tmp_path / "set") == 1
    assert "prismatic-set/3" in (tmp_path / "set" / MANIFEST).read_text()
    assert same(next(read_in_process(tmp_path / "set")), run)
    (confined,), rejected = read_sources([tmp_path / "set"])
    assert rejected == []
    assert same(confined, run)
    question = "SELECT step, layer, expert, source, norm, half_product FROM layers ORDER BY ALL"
    asked = connect_relations(relations_of_sets([tmp_path / "set"])).sql(question).fetchall()
    assert asked == connect([run]).sql(question).fetchall() != []


def same(one: RunFile, other: RunFile) -> bool:
    tables = ("wide", "layers", "packed_layers", "pairs", "packed_pairs", "experts")
    return all(comparable(getattr(one, table)).equals(comparable(getattr(other, table))) for table in tables)


def comparable(table: pa.Table) -> pa.Table:
    """Return the table with the bits of its arrays, in which NaN equals itself."""
    lists = [name for name in table.column_names if pa.types.is_list(table[name].type)]
    for name in lists:
        whole = table[name].combine_chunks()
        bits = pa.array([None if row is None else np.float32(row).tobytes() for row in whole.to_pylist()], pa.binary())
        table = table.set_column(table.column_names.index(name), name, bits)
    return table.combine_chunks()


@pytest.mark.long
def test_a_run_in_training_is_read_on(packed: Path, run: RunFile, tmp_path: Path):
    path = changed(packed, tmp_path, "INSERT OR REPLACE INTO run VALUES ('exit_state', '\"running\"')")
    with closing(sqlite3.connect(path)) as db:
        later = [*db.execute("SELECT * FROM packed_layers WHERE step > 20 ORDER BY rowid")]
        db.execute("DELETE FROM packed_layers WHERE step > 20")
        db.execute("CREATE TABLE kept AS SELECT * FROM dynamics WHERE step > 20")
        db.execute("DELETE FROM dynamics WHERE step > 20")
        db.execute("DELETE FROM packed_pairs WHERE step > 20")
        db.commit()
        growing = IncrementalReader()
        (early,), _ = read_files([path], growing=growing)
        assert len(early.packed_layers) == 8
        db.execute("INSERT INTO dynamics SELECT * FROM kept")
        db.executemany(f"INSERT INTO packed_layers VALUES ({', '.join('?' * len(later[0]))})", later)
        db.commit()
    (late,), _ = read_files([path], growing=growing)
    assert comparable(late.packed_layers).equals(comparable(run.packed_layers))
    assert late.wide.equals(run.wide)


def rows_of(run: RunFile, relation: str) -> list[tuple]:
    con = connect([run])
    order = "step, layer, source, expert" if relation == "layers" else "step, layer, expert, other"
    found = con.sql(f"SELECT * EXCLUDE (run) FROM {relation} ORDER BY {order}")
    assert [str(kind) for kind in found.types[:3]] == ["BIGINT"] * 3
    return found.fetchall()


@pytest.mark.parametrize("relation", ["layers", pytest.param("pairs", marks=pytest.mark.long)])
def test_the_relations_are_those_of_the_unpacked_file(packed: Path, run: RunFile, tmp_path: Path, relation: str):
    (other,), _ = read_files([unpacked_copy(packed, tmp_path / "rows.db")])
    assert rows_of(run, relation) == rows_of(other, relation) != []
    mine, theirs = unpacked(relation, getattr(run, f"packed_{relation}")), getattr(other, relation)
    keys = [(name, "ascending") for name in ("step", "layer", "expert", *mine.column_names[3:4])]
    assert mine.sort_by(keys).equals(theirs.sort_by(keys))


def test_layers_without_rows_or_steps_are_no_error():
    nothing, steps = arrow_schema("packed_layers").empty_table(), np.arange(3)
    assert layers_of(nothing, "merged", steps) == []
    assert pairs_of(arrow_schema("packed_pairs").empty_table(), steps) == []
    assert len(unpacked("layers", nothing)) == 0
    assert [*blocks(nothing)] == []


def blocks(table: pa.Table) -> Iterator[np.ndarray]:
    for layer in layers_of(table, "merged", np.arange(3)):
        yield layer.block("norm")
