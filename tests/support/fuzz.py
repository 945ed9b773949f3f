"""Mutants of real run files, and the check of what the reader makes of them.

A mutant is either refused with a clear sentence, or read as a run. Then its numbers equal those that plain, independent
sqlite3 finds in the file, the numbers that the mutation did not touch equal the original's, and damage is always noted.
Everything follows from a seed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import re
import sqlite3
import subprocess
import sys
import threading
import zipfile
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from prismatic import DynamicsLogger
from prismatic.contract import schema
from validation.files.run_file import RUN_TABLES, Rejected, RunFile

TIERS = [f"{tier}_norm" for tier in schema.TIERS]
PLAIN_SECONDS = 10.0  # for one file; the plain reader has no defence against endless loops
Random = random.Random
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Original:
    """A run file of the real logger."""

    data: bytes
    rows: dict[int, dict[str, float | None]]  # of `dynamics`, by step
    cells: dict[int, set[int]]  # the bytes of the file that hold a row of `dynamics`, by step
    frame: set[int]  # bytes that many rows depend on: the schema, and the pages of `dynamics` outside its rows


@dataclass(frozen=True)
class Mutant:
    """A changed file, and the numbers of the original that must still be there."""

    kind: str
    data: bytes
    original: Original
    kept: frozenset[int] = frozenset()  # steps of the rows of `dynamics` that the mutation did not touch
    changed: frozenset[str] = frozenset()  # columns that it did touch
    whole: bool = False  # checksums protect it: every number must be the original's


# -- The originals -----------------------------------------------------------------------------------------------------


def originals(folder: Path) -> list[Original]:
    """Return a small run, a run with everything in it, and the latter with pages too small for a row."""
    small = _log(folder / "small.db", steps=12, experts=2, layers=1, extra=False)
    full = _log(folder / "full.db", steps=60, experts=3, layers=2, extra=True)
    return [_original(data) for data in (_settled(small, 4096), _settled(full, 4096), _settled(full, 512))]


def _settled(path: Path, page_size: int) -> bytes:
    """Return the file without anything that varies between runs: the clock, and the order of its pages.

    It has no checksums, as a file of an earlier version, so that the numbers of a mutant are looked at.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE dynamics SET wall_time = 1e9 + step")
        db.execute("DELETE FROM events")
        db.execute("DELETE FROM run WHERE key = 'checksums'")
        db.execute(f"PRAGMA page_size={page_size}")
        db.execute("VACUUM")
    return path.read_bytes()


def _log(path: Path, *, steps: int, experts: int, layers: int, extra: bool) -> Path:
    dice = Random(steps)
    with DynamicsLogger(path, num_experts=experts, flush_seconds=1e9) as logger:
        logger.log_run({"run_hash": f"{steps:09x}", "config.seed": 1, "config.merge": "example", "planned_steps": 900})
        logger.log_table("experts", [{"expert": i, "role": schema.ROLES[min(i, 2)]} for i in range(experts)])
        logger.log_table("tiers", [{"layer": 0, "tier": tier, "weights": 100} for tier in schema.TIERS])
        for step in range(0, 10 * steps, 10):
            missing = extra and step % 70 == 0
            groups = {}
            for i in range(experts):
                names = (*TIERS, "routing_weight", "perturbed_norm" if i else "clean_norm")
                groups[f"expert_{i}"] = {name: math.nan if missing and i else dice.random() for name in names}
            rows = [{"layer": n, "expert": i, "source": "merged"} for n in range(layers) for i in range(experts)]
            dynamics: dict[str, Any] = {
                "expert_gradients": groups,
                "divergence_scores": {f"expert_{i}_divergence": dice.random() for i in range(1, experts)},
                "layers": [{**row, **{name: dice.random() for name in (*TIERS, "norm")}} for row in rows],
            }
            if extra:
                bins = [{"tier": tier, "bin": -dice.randrange(9), "count": 5} for tier in schema.TIERS]
                products = [("half_product", dice.random()), ("output_distance", dice.random())]
                dynamics["pairs"] = [{"layer": n, "expert": 0, "other": 1, **dict(products)} for n in range(layers)]
                dynamics["histograms"] = [{"layer": 0, "expert": 0, **one} for one in bins]
            logger.log(step, dynamics, loss=dice.random())
    return path


def _original(data: bytes) -> Original:
    with closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(data)
        db.row_factory = sqlite3.Row
        rows = {row["step"]: dict(row) for row in db.execute("SELECT * FROM dynamics")}
        root = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'dynamics'").fetchone()[0]
    cells, frame = anatomy(data, root)
    entries, schema_pages = anatomy(data, 1)
    assert cells.keys() == rows.keys()
    return Original(data, rows, cells, frame | schema_pages | set().union(*entries.values()) | set(range(100)))


def anatomy(data: bytes, root: int) -> tuple[dict[int, set[int]], set[int]]:
    """Return the bytes that hold each row of a table, by rowid, and those of the tree around them.

    Parses SQLite's file format by hand.
    """
    size = int.from_bytes(data[16:18], "big") % 65535 or 65536
    cells: dict[int, set[int]] = {}
    frame: set[int] = set()

    def number(at: int, width: int) -> int:
        return int.from_bytes(data[at : at + width], "big")

    def varint(at: int) -> tuple[int, int]:
        value = 0
        for place in range(at, at + 8):
            value = value << 7 | data[place] & 127
            if data[place] < 128:
                return value, place + 1
        return value << 8 | data[at + 8], at + 9

    def walk(page: int) -> None:
        base = (page - 1) * size
        head = base + (100 if page == 1 else 0)
        kind, count = data[head], number(head + 3, 2)
        pointers = head + (12 if kind == 5 else 8)
        starts = [base + number(pointers + 2 * i, 2) for i in range(count)]
        if kind == 5:
            frame.update(range(base, base + size))
            for child in [*(number(start, 4) for start in starts), number(head + 8, 4)]:
                walk(child)
            return
        own: set[int] = set()
        for start in starts:
            payload, at = varint(start)
            rowid, at = varint(at)
            cells[rowid] = cell(start, at, payload)
            own |= cells[rowid]
        frame.update(set(range(base, base + size)) - own)

    def cell(start: int, at: int, payload: int) -> set[int]:
        least = (size - 12) * 32 // 255 - 23
        spread = least + (payload - least) % (size - 4)
        local = payload if payload <= size - 35 else spread if spread <= size - 35 else least
        taken = set(range(start, at + local + (4 if local < payload else 0)))
        follow = number(at + local, 4) if local < payload else 0
        while follow:
            taken |= set(range((follow - 1) * size, follow * size))
            follow = number((follow - 1) * size, 4)
        return taken

    walk(root)
    return cells, frame


# -- Mutations of bytes ------------------------------------------------------------------------------------------------


def _by_bytes(kind: str, original: Original, data: bytes | bytearray) -> Mutant:
    """Return a mutant; rows must stay if their bytes and the frame are unchanged."""
    touched = {i for i, (a, b) in enumerate(zip(original.data, data, strict=False)) if a != b}
    safe = len(data) >= len(original.data) and not touched & original.frame
    kept = {step for step, own in original.cells.items() if not own & touched} if safe else set()
    return Mutant(kind, bytes(data), original, frozenset(kept))


def _flip(data: bytearray, dice: Random, places: Sequence[int], count: int) -> None:
    for _ in range(count):
        data[dice.choice(places)] ^= 1 << dice.randrange(8)


def flips_anywhere(original: Original, dice: Random) -> Mutant:
    data = bytearray(original.data)
    _flip(data, dice, range(len(data)), dice.choice([1, 1, 4, 30]))
    return _by_bytes("flips_anywhere", original, data)


def flips_in_rows(original: Original, dice: Random) -> Mutant:
    data = bytearray(original.data)
    rows = dice.sample(sorted(original.cells), 2)
    _flip(data, dice, sorted(set().union(*(original.cells[step] for step in rows))), dice.choice([1, 3, 10]))
    return _by_bytes("flips_in_rows", original, data)


def flips_in_the_frame(original: Original, dice: Random) -> Mutant:
    data = bytearray(original.data)
    _flip(data, dice, sorted(original.frame), dice.choice([1, 2, 8]))
    return _by_bytes("flips_in_the_frame", original, data)


def header_fields(original: Original, dice: Random) -> Mutant:
    data = bytearray(original.data)
    at, width = dice.choice([(16, 2), (18, 1), (19, 1), (20, 1), (24, 4), (28, 4), (32, 4), (36, 4), (44, 4), (56, 4)])
    value = dice.choice([0, 1, 2, 3, 4, 255, 512, 4096, 65535, 2**31 - 1, 2**32 - 1])
    data[at : at + width] = (value % 256**width).to_bytes(width, "big")
    return _by_bytes("header_fields", original, data)


def schema_text(original: Original, dice: Random) -> Mutant:
    """Change characters of the CREATE TABLE of `dynamics`, without SQLite checking them."""
    data = bytearray(original.data)
    start = data.index(b"CREATE TABLE dynamics")
    for _ in range(dice.choice([1, 1, 3])):
        data[start + dice.randrange(600)] = dice.choice(b"abz_0129 ,()'\"\x00\xff;")
    return _by_bytes("schema_text", original, data)


def pages(original: Original, dice: Random) -> Mutant:
    """Empty a page, fill it, swap it with another one, or overwrite it by another one."""
    data, size = bytearray(original.data), int.from_bytes(original.data[16:18], "big")
    one, other = (size * dice.randrange(len(data) // size) for _ in range(2))
    first, second = bytes(data[one : one + size]), bytes(data[other : other + size])
    made = dice.choice(["zeros", "ones", "noise", "copy", "swap"])
    fill = {"zeros": bytes(size), "ones": b"\xff" * size, "noise": dice.randbytes(size)}
    data[one : one + size] = fill.get(made, second)
    if made == "swap":
        data[other : other + size] = first
    return _by_bytes(f"pages_{made}", original, data)


def truncated(original: Original, dice: Random) -> Mutant:
    size = int.from_bytes(original.data[16:18], "big")
    cut = dice.choice([dice.randrange(len(original.data)), size * dice.randrange(len(original.data) // size)])
    return _by_bytes("truncated", original, original.data[:cut])


def concatenated(original: Original, dice: Random) -> Mutant:
    more = dice.choice([dice.randbytes(dice.randrange(1, 9000)), bytes(4096), original.data])
    data = original.data + more if dice.random() < 0.7 else more + original.data
    return _by_bytes("concatenated", original, data)


def zipped(original: Original, dice: Random) -> Mutant:
    """Pack the file into a zip archive, intact or damaged: its checksum protects the contents."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", dice.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
            archive.writestr(zipfile.ZipInfo(f"{dice.randrange(1000)}/dynamics.db"), original.data, archive.compression)
        data = bytearray(file.getvalue())
    if dice.random() < 0.8:
        _flip(data, dice, dice.choice([range(60), range(len(data) - 120, len(data)), range(len(data))]), 2)
    return Mutant("zipped", bytes(data), original, frozenset(original.rows), whole=True)


# -- Mutations by SQL --------------------------------------------------------------------------------------------------

Change = Callable[[sqlite3.Connection, Random, list[str]], Iterable[str] | None]


def _by_sql(change: Change) -> Callable[[Original, Random], Mutant]:
    """Return a mutation made by SQLite. `change` returns the columns of `dynamics` that it touched; None: any."""

    def mutate(original: Original, dice: Random) -> Mutant:
        columns = list(next(iter(original.rows.values())))
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            db.deserialize(original.data)
            touched = change(db, dice, columns)
            data = db.serialize()
        kept = frozenset(() if touched is None else original.rows)
        return Mutant(change.__name__, data, original, kept, frozenset(touched or ()))

    mutate.__name__ = change.__name__
    return mutate


def renamed_column(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str]:
    old = dice.choice(columns)
    new = dice.choice(
        ["x", "expert_9_top_norm", "layer_0_expert_1_norm", "expert_0_grad_norm", "expert_1_top_mean", "STEP", "a\"'b"]
    )
    db.execute(f'ALTER TABLE dynamics RENAME COLUMN "{old}" TO "{new.replace(chr(34), chr(34) * 2)}"')
    return {old, new}


def dropped_column(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str]:
    name = dice.choice(columns[1:])
    db.execute(f'ALTER TABLE dynamics DROP COLUMN "{name}"')
    return {name}


def other_writers_columns(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str]:
    """Rename all tier norms to columns of layers, to whole norms, or to means."""
    pattern, new = dice.choice(
        [
            (r"expert_(\d)_(\w+)_norm", r"layer_0_expert_\1_\2_norm"),
            (r"expert_(\d)_(top|bottom)_norm", r"layer_3_expert_\1_\2_norm"),
            (r"expert_(\d)_top_norm", r"expert_\1_grad_norm"),
            (r"expert_(\d)_(\w+)_norm", r"expert_\1_\2_mean"),
        ]
    )
    for name in columns:
        if re.fullmatch(pattern, name):
            db.execute(f"ALTER TABLE dynamics RENAME COLUMN {name} TO {re.sub(pattern, new, name)}")
    if dice.random() < 0.5:
        db.execute("DROP TABLE layers")
    return set(columns[1:])


def renamed_table(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str] | None:
    tables = ["dynamics", *schema.TABLES]
    one, other = dice.sample(tables, 2)
    db.execute(f"ALTER TABLE {one} RENAME TO spare")
    if dice.random() < 0.5:
        db.execute(f"ALTER TABLE {other} RENAME TO {one}")
        db.execute(f"ALTER TABLE spare RENAME TO {other}")
    return None if "dynamics" in (one, other) else ()


def dropped_table(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str]:
    db.execute(f"DROP TABLE {dice.choice(['dynamics', *schema.TABLES])}")
    return ()


def other_types(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str] | None:
    """Change the declared types, without converting a value."""
    table = dice.choice(["dynamics", "dynamics", "layers", "pairs", "run", "experts", "histograms"])
    old = dice.choice([" REAL", " INTEGER", " TEXT", " INTEGER PRIMARY KEY"])
    new = dice.choice([" TEXT", " BLOB", " INTEGER", " REAL", "", " ANY", " DATE", " REAL UNIQUE", " REAL NOT NULL"])
    _rewrite(db, table, lambda sql: sql.replace(old, new, dice.choice([1, -1])))
    return None


def _rewrite(db: sqlite3.Connection, table: str, edit: Callable[[str], str]) -> None:
    (sql,) = db.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    db.execute("PRAGMA writable_schema=ON")
    db.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (edit(sql), table))


def forged_schema(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str] | None:
    """Swap root pages, double entries, or change kinds and names, without SQLite checking them."""
    db.execute("PRAGMA writable_schema=ON")
    one, other = dice.sample(["dynamics", "layers", "run", "events"], 2)
    statement = dice.choice(
        [
            f"UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = '{other}') "
            f"WHERE name = '{one}'",
            f"UPDATE sqlite_master SET rootpage = {dice.randrange(-1, 40)} WHERE name = '{one}'",
            f"UPDATE sqlite_master SET type = 'view' WHERE name = '{one}'",
            f"UPDATE sqlite_master SET sql = NULL WHERE name = '{one}'",
            f"INSERT INTO sqlite_master SELECT type, name, tbl_name, rootpage, sql FROM sqlite_master "
            f"WHERE name = '{one}'",
            f"UPDATE sqlite_master SET name = 'DYNAMICS', tbl_name = 'DYNAMICS' WHERE name = '{one}'",
            f"DELETE FROM sqlite_master WHERE name = '{one}'",
            "DELETE FROM sqlite_master WHERE type = 'index'",
        ]
    )
    db.execute(statement)
    return None


def injected(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str] | None:
    """Add views, triggers, indexes and constraints, which change no number that is read."""
    name = dice.choice(columns)
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n AS step FROM r"
    statement = dice.choice(
        [
            f"CREATE VIEW spare AS {endless}",
            "CREATE TRIGGER t AFTER INSERT ON dynamics BEGIN DELETE FROM dynamics; END",
            "CREATE TRIGGER t BEFORE UPDATE ON layers BEGIN SELECT raise(ABORT, 'no'); END",
            f"CREATE INDEX i ON dynamics ({name})",
            f"CREATE INDEX i ON dynamics (abs({name}), step) WHERE step > 3",
            f"CREATE UNIQUE INDEX i ON dynamics ({', '.join(columns)})",
            f"ALTER TABLE dynamics ADD COLUMN g REAL AS (abs({name})) VIRTUAL",
            "ALTER TABLE dynamics ADD COLUMN expert_8_top_norm REAL CHECK (expert_8_top_norm IS NULL OR length('x'))",
            "CREATE TABLE '<b>' (a)",
            "CREATE VIRTUAL TABLE f USING fts5(a)",
            "PRAGMA user_version = 77",
            "PRAGMA application_id = -1",
        ]
    )
    db.execute(statement)
    return {"expert_8_top_norm"}


def replaced_by_a_view(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str] | None:
    table = dice.choice(["dynamics", "layers", "pairs", "run", "histograms"])
    db.execute(f"ALTER TABLE {table} RENAME TO spare")
    db.execute(f"CREATE VIEW {table} AS SELECT * FROM spare")
    return None if table == "dynamics" else ()


def odd_values(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str] | None:
    """Write values of wrong types into a column without a type, where SQLite keeps them as they are."""
    name = dice.choice(columns)
    table = dice.choice(["dynamics", "dynamics", "layers"])
    _rewrite(db, table, lambda sql: sql.replace(" INTEGER PRIMARY KEY", " ").replace(" REAL", " "))
    data = db.serialize()
    db.deserialize(data)
    name = name if table == "dynamics" else dice.choice(["step", "layer", "top_norm"])
    odd = [None, "text", b"\0\1\2\3", math.inf, -math.inf, 2**63 - 1, -1.5, 1e308, 3.0, "", "1.5", 0]
    order = f"rowid * {dice.randrange(999)} % 1009"
    rows = f"rowid IN (SELECT rowid FROM {table} ORDER BY {order} LIMIT {dice.choice([1, 3])})"
    db.execute(f"UPDATE OR IGNORE {table} SET {name} = ? WHERE {rows}", (dice.choice(odd),))
    return None


def other_rows(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str] | None:
    """Drop, double and reorder rows."""
    order = dice.choice([f"step * {dice.randrange(999)} % 1009", "step DESC", "loss"])
    db.execute(f"CREATE TABLE spare AS SELECT * FROM dynamics ORDER BY {order}")
    if dice.random() < 0.5:
        db.execute("INSERT INTO spare SELECT * FROM dynamics WHERE step % 3 = 0")
    if dice.random() < 0.5:
        db.execute(f"DELETE FROM spare WHERE step % {dice.randrange(2, 9)} = 1")
    db.execute("DROP TABLE dynamics")
    db.execute("ALTER TABLE spare RENAME TO dynamics")
    return None


def without_rowid(db: sqlite3.Connection, dice: Random, columns: list[str]) -> Iterable[str]:
    """Store the same rows in another kind of table."""
    types = ", ".join(f"{name} REAL" for name in columns[1:])
    end = dice.choice(["WITHOUT ROWID", "STRICT"])
    db.execute(f"CREATE TABLE spare (step INTEGER PRIMARY KEY, {types}) {end}")
    db.execute("INSERT INTO spare SELECT * FROM dynamics")
    db.execute("DROP TABLE dynamics")
    db.execute("ALTER TABLE spare RENAME TO dynamics")
    return ()


BY_BYTES = (
    *(flips_anywhere, flips_in_rows, flips_in_rows, flips_in_the_frame, header_fields, schema_text, pages, truncated),
    *(concatenated, zipped),
)
BY_SQL = tuple(
    map(
        _by_sql,
        (
            *(renamed_column, dropped_column, other_writers_columns, renamed_table, dropped_table, other_types),
            *(forged_schema, injected, replaced_by_a_view, odd_values, other_rows, without_rowid),
        ),
    )
)


def mutants(count: int, seed: int, sources: Sequence[Original]) -> list[Mutant]:
    """Return `count` different mutants; the same for the same seed."""
    dice, found = Random(seed), {hashlib.sha256(source.data).digest(): None for source in sources}
    made: list[Mutant] = []
    kinds = (*BY_BYTES, *BY_SQL)
    tries = 0
    while len(made) < count and tries < 20 * count:
        try:
            mutant = kinds[tries % len(kinds)](dice.choice(sources), dice)
        except sqlite3.Error:  # a change that SQLite itself refuses
            continue
        finally:
            tries += 1
        digest = hashlib.sha256(mutant.data).digest()
        if digest not in found:
            found[digest] = None
            made.append(mutant)
    return made


# -- A second reading: plain sqlite3 without any defence, in a separate process ----------------------------------------

PLAIN = """
import json, sqlite3, sys
def cell(value):
    return {"blob": value.hex()} if isinstance(value, bytes) else value
for line in sys.stdin:
    path, answer = line.rstrip("\\n"), {}
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        answer["integrity"] = [str(row[0]) for row in db.execute("PRAGMA integrity_check")]
    except Exception as error:
        answer["integrity"] = [str(error)]
    tables = ("dynamics", "experts", "tiers", "events", "layers", "pairs", "histograms", "scalars", "run")
    for table in (*tables, "packed_layers", "packed_pairs"):
        try:
            rows = db.execute(f"SELECT * FROM {table} NOT INDEXED")
            names = [str(one[0]) for one in rows.description]
            answer[table] = [dict(zip(names, map(cell, row))) for row in rows]
        except Exception as error:
            answer[table] = str(error)
    print(json.dumps(answer), flush=True)
"""


def plainly(paths: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """Return what plain sqlite3 finds in each file; {"died": ...} if the file killed or hung the process."""
    answers: dict[Path, dict[str, Any]] = {}
    waiting = list(paths)
    while waiting:
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PLAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin
            assert process.stdout
            while waiting:
                path = waiting.pop(0)
                timer = threading.Timer(PLAIN_SECONDS, process.kill)
                timer.start()
                process.stdin.write(f"{path}\n")
                process.stdin.flush()
                line = process.stdout.readline()
                timer.cancel()
                answers[path] = json.loads(line) if line.endswith("\n") else {"died": True}
                if "died" in answers[path]:
                    process.kill()
                    break
    return answers


# -- The check ---------------------------------------------------------------------------------------------------------

BROKEN = ("the process that reads files ended", "found something that cannot be read", "reading did not end")
# Problems of single values, which the reader checks one by one.
HARMLESS = re.compile(r"ok$|(NULL|TEXT|NUMERIC|non-\w+) value in |CHECK constraint failed")
EXPERT = re.compile(r"expert_(0|[1-9][0-9]{0,3})_([a-z][a-z_]{0,60})")
LAYER = re.compile(r"layer_(0|[1-9][0-9]{0,3})_expert_(0|[1-9][0-9]{0,3})_(\w+)")


def complaint(mutant: Mutant, answer: RunFile | Rejected, plain: dict[str, Any] | None) -> str | None:
    """Return the error in the reader's answer to a mutant; None if there is none. plain: the second reading."""
    if isinstance(answer, Rejected):
        sentence = str(answer.error)
        if any(words in sentence for words in BROKEN) or not sentence.startswith(f"{answer.name}: expected "):
            return f"refused without a clear reason: {sentence}"
        return None
    if mutant.whole:
        return _untouched(mutant, answer)
    if plain is None or "died" in plain:
        return "accepted, but it kills a plain reader"
    return (
        _steps(answer)
        or _rows(answer, plain)
        or _side_tables(answer, plain)
        or _facts(answer, plain)
        or _silence(answer, plain)
        or _untouched(mutant, answer)
    )


def _steps(run: RunFile) -> str | None:
    steps = run.wide["step"]
    values = steps.to_pylist()
    typed = steps.type == pa.int64() and steps.null_count == 0
    return None if typed and values == sorted(set(values)) else f"steps are not in order: {values[:20]}"


def _rows(run: RunFile, plain: dict[str, Any]) -> str | None:
    """Compare every number of the wide table with the last row of its step in the file."""
    rows = plain["dynamics"]
    if isinstance(rows, str):  # Python's module cannot even name a column whose name is not UTF-8
        return None if "codec can't decode" in rows else f"accepted, but plain sqlite3 says: {rows}"
    last = {row["step"]: row for row in rows}
    steps = run.wide["step"].to_pylist()
    if set(last) != set(steps):
        return f"other steps than in the file: {set(last) ^ set(steps)}"
    if run.duplicates != len(rows) - len(last):
        return f"{run.duplicates} duplicates, found {len(rows) - len(last)}"
    names = set(rows[0]) if rows else set()
    for name in run.wide.column_names:
        here = run.wide[name].to_pylist()
        there = [last[step].get(name) for step in steps]
        if name not in names or (set(there) == {None} != set(here)):
            there = [_derived(name, last[step], plain) for step in steps]
        if not all(map(_same, here, there)):
            return f"{name} is {here[:5]}..., in the file {there[:5]}..."
    read = {*run.wide.column_names, *run.ignored}
    lost = {name for name in names if EXPERT.fullmatch(name) and name not in read}
    return f"columns lost in silence: {lost}" if lost and len(run.ignored) < 50 else None


def _derived(name: str, row: dict[str, Any], plain: dict[str, Any]) -> Any:
    """Return the value of a column that the file lacks: a scalar, a norm of another name, a mean over layers."""
    scalars = [one["value"] for one in plain["scalars"] if one["name"] == name and one["step"] == row["step"]]
    if scalars:
        return scalars[-1]
    match = EXPERT.fullmatch(name)
    if match is None:
        return "unexplained"
    whole = ("norm", "perturbed_norm", "clean_norm", "grad_norm")
    metrics = whole if match[2] in whole else (match[2],)
    if metrics == whole and f"expert_{match[1]}_grad_norm" in row:
        return row[f"expert_{match[1]}_grad_norm"]
    found = {key: LAYER.fullmatch(key) for key in row}
    layers = [row[key] for key, m in found.items() if m and m[2] == match[1] and m[3] in metrics]
    if not layers:
        return "unexplained"
    return None if None in layers else sum(layers) / len(layers)


def _same(here: Any, there: Any) -> bool:
    if here is None or there is None:
        return here is there
    if isinstance(there, dict) and isinstance(here, list):
        return array("f", here) == array("f", bytes.fromhex(there["blob"]))
    if isinstance(here, str) or isinstance(there, str | dict):
        return here == there or (isinstance(here, str) and here == str(there))
    return bool(here == there or math.isclose(here, there, rel_tol=1e-12))


def _side_tables(run: RunFile, plain: dict[str, Any]) -> str | None:
    for table in RUN_TABLES:
        mine: pa.Table = getattr(run, table)
        theirs = plain[table]
        if "codec can't decode" in theirs:
            continue
        noted = any(f"table `{table}` was not read" in note for note in (*run.notes, *run.damage))
        if noted or (table == "layers" and not theirs) or isinstance(theirs, str):
            made = table == "layers" and any(LAYER.fullmatch(name) for row in plain["dynamics"] for name in row)
            if len(mine) and not made:
                return f"{table} has {len(mine)} rows out of nothing"
            continue
        if len(mine) != len(theirs):
            return f"{table} has {len(mine)} rows, in the file {len(theirs)}"
        for name in mine.column_names:
            values = [row.get(name) for row in theirs]
            if not all(map(_same, mine[name].to_pylist(), values)):
                return f"{table}.{name} is {mine[name].to_pylist()[:5]}..., in the file {values[:5]}..."
    return None


def _facts(run: RunFile, plain: dict[str, Any]) -> str | None:
    if isinstance(plain["run"], str) or any("table `run`" in note for note in (*run.notes, *run.damage)):
        return None if not run.facts else "facts out of nothing"
    for row in plain["run"]:
        if row.get("key") and len(str(row["key"])) <= 200 and str(row["key"]) not in run.facts:
            return f"the fact {row['key']} was lost in silence"
    return None


def _silence(run: RunFile, plain: dict[str, Any]) -> str | None:
    """Check that damage which plain sqlite3 finds is an error of the run."""
    problems = [one for one in plain["integrity"] if not HARMLESS.match(one)]
    return f"damage accepted in silence: {problems[0]}" if problems and not run.damage else None


def _untouched(mutant: Mutant, run: RunFile) -> str | None:
    """Return the first number that differs from the original, although the mutation did not touch it."""
    found = {row["step"]: row for row in run.wide.to_pylist()}
    for step in mutant.kept if "step" not in mutant.changed else ():
        if step not in found:
            return f"step {step} was lost, though nothing touched it"
        for name, value in mutant.original.rows[step].items():
            here = found[step].get(name)
            if name not in mutant.changed and not _same(here, value):
                return f"{name} at step {step} is {here}, was {value}, though nothing touched it"
    return None
