"""Bad and odd run files: each function writes one kind of file at a path; test_read_files.py has a case for each."""

from __future__ import annotations

import gzip
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from prismatic.contract import schema

NORMS = [f"expert_{expert}_{tier}_norm" for expert in range(2) for tier in schema.TIERS]


def database(path: Path, *statements: str | tuple[str, Sequence[object]], pragmas: Iterable[str] = ()) -> Path:
    """Write a SQLite file by these statements: SQL, or SQL and the rows to run it with."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for pragma in pragmas:
            db.execute(f"PRAGMA {pragma}")
        db.execute("BEGIN")
        for statement in statements:
            if isinstance(statement, str):
                db.execute(statement)
            else:
                db.executemany(*statement)  # type: ignore[arg-type]
        db.execute("COMMIT")
    return path


def dynamics(
    rows: Iterable[Sequence[object]], columns: Sequence[str] = NORMS, *, step: str = "step INTEGER", end: str = ""
) -> list[str | tuple[str, Sequence[object]]]:
    """Return statements that create a wide table with these columns after `step`, and fill it."""
    quoted = ", ".join('"{}" REAL'.format(name.replace('"', '""')) for name in columns)
    marks = ", ".join("?" * (len(columns) + 1))
    return [
        f"CREATE TABLE dynamics ({step}, {quoted}) {end}",
        (f"INSERT INTO dynamics VALUES ({marks})", [tuple(row) for row in rows]),
    ]


def numbers(steps: Iterable[object], width: int = len(NORMS)) -> list[tuple[object, ...]]:
    """Return rows of harmless values for these steps."""
    return [(step, *(1.0 + 0.25 * row + 0.5 * column for column in range(width))) for row, step in enumerate(steps)]


def good(path: Path, steps: int = 40, experts: int = 3, seed: int = 0) -> Path:
    """Write a run as DynamicsLogger does: every table, every column."""
    noise, names = random.Random(seed), [column.name for column in schema.dynamics_columns(experts)]
    rows = [(step, *(noise.random() for _ in names[1:])) for step in range(steps)]
    values = [0 if column.type == "INTEGER" else 0.5 for column in schema.LAYERS_COLUMNS[4:]]
    layers = [(step, 0, expert, "merged", *values) for step in range(steps) for expert in range(experts)]
    facts = {"run_hash": '"83492c812abcdef0"', "config.seed": str(seed), "config.merge": '"batch"', "note": "no JSON"}
    roles = [(0, "clean", None), (1, "perturbed", 2**62 + 1), (2, "control", 3)]
    return database(
        path,
        *schema.create_statements(experts),
        (f"INSERT INTO dynamics VALUES ({', '.join('?' * len(names))})", rows),
        (f"INSERT INTO layers VALUES ({', '.join('?' * (4 + len(values)))})", layers),
        ("INSERT INTO run VALUES (?, ?)", list(facts.items())),
        ("INSERT INTO experts (expert, role, seed) VALUES (?, ?, ?)", roles),
        pragmas=[f"application_id={schema.APPLICATION_ID}", f"user_version={schema.SCHEMA_VERSION}"],
    )


def _patch(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset, 0 if offset >= 0 else 2)
        file.write(data)


def _root(path: Path, table: str = "dynamics") -> int:
    """Return the offset of the root page of a table."""
    with closing(sqlite3.connect(path)) as db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
        return int((page - 1) * db.execute("PRAGMA page_size").fetchone()[0])


def _forge(path: Path, sql: str, root: int = 2) -> None:
    """Change the definition of `dynamics` in the schema, without SQLite checking it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute("UPDATE sqlite_master SET sql = ?, rootpage = ? WHERE name = 'dynamics'", (sql, root))


# -- Not a SQLite database --------------------------------------------------------------------------------------------


def empty(path: Path) -> None:
    path.write_bytes(b"")


def csv(path: Path) -> None:
    path.write_text("step,expert_0_top_norm\n0,1.5\n" * 20)


def blank_lines(path: Path) -> None:
    path.write_text("\n\n \n")


def utf8_cut_in_a_character(path: Path) -> None:
    path.write_bytes(("a" * 99 + "é").encode())


def gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress(good(path).read_bytes()))


def png(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))


def encrypted(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(8192))


def zeros(path: Path) -> None:
    path.write_bytes(bytes(8192))


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")


def wal_instead_of_database(path: Path) -> None:
    path.write_bytes(b"\x37\x7f\x06\x82" + bytes(100))


# -- Damaged -----------------------------------------------------------------------------------------------------------


def magic_only(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")


def half_of_magic(path: Path) -> None:
    path.write_bytes(b"SQLite f")


def half_a_header(path: Path) -> None:
    path.write_bytes(good(path).read_bytes()[:50])


def header_only(path: Path) -> None:
    path.write_bytes(good(path).read_bytes()[:100])


def one_page(path: Path) -> None:
    path.write_bytes(good(path).read_bytes()[:4096])


def half_a_file(path: Path) -> None:
    data = good(path).read_bytes()
    path.write_bytes(data[: len(data) // 2 + 7])


def last_byte_lost(path: Path) -> None:
    path.write_bytes(good(path).read_bytes()[:-1])


def cut_by_a_writer_without_page_count(path: Path) -> None:
    half_a_file(path)
    _patch(path, 92, b"\0\0\0\7")  # version-valid-for no longer equals the change counter


def page_count_bomb(path: Path) -> None:
    good(path)
    _patch(path, 28, b"\x7f\xff\xff\xff")


def root_page_flipped(path: Path) -> None:
    _patch(path, _root(good(path)), b"\xff" * 64)


def btree_that_holds_itself(path: Path) -> None:
    root = _root(good(path, steps=400))
    _patch(path, root + 8, struct.pack(">I", root // 4096 + 1))  # the right-most child of the root is the root


def garbage_schema(path: Path) -> None:
    good(path)
    _forge(path, "CREATE TABLE dynamics (((")


def schema_that_is_not_utf8(path: Path) -> None:
    database(path, *dynamics(numbers(range(3))), "CREATE TABLE xyzzy (a)")
    path.write_bytes(path.read_bytes().replace(b"xyzzy", b"\xff\xfezzy"))


# -- Another schema ----------------------------------------------------------------------------------------------------


def other_tables(path: Path) -> None:
    database(path, "CREATE TABLE users (name)", 'CREATE TABLE "<b>bold</b>" (a)')


def no_tables(path: Path) -> None:
    database(path, "CREATE TABLE t (a)", "DROP TABLE t")


def view(path: Path) -> None:
    database(path, "CREATE VIEW dynamics AS SELECT 1 AS step, 2.0 AS expert_0_top_norm")


def endless_view(path: Path) -> None:
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n AS step, n AS expert_0_top_norm"
    database(path, f"CREATE VIEW dynamics AS {endless} FROM r")


def virtual_table(path: Path) -> None:
    database(path, "CREATE VIRTUAL TABLE dynamics USING fts5(step, expert_0_top_norm)")


def virtual_table_with_a_forged_root(path: Path) -> None:
    virtual_table(path)
    _forge(path, "CREATE VIRTUAL TABLE dynamics USING fts5(step, expert_0_top_norm)")


def view_disguised_as_a_table(path: Path) -> None:
    database(path, *dynamics(numbers(range(3))))
    _forge(path, "CREATE/**/VIEW dynamics AS SELECT 1 AS step, 2.0 AS expert_0_top_norm", root=0)


def generated_column(path: Path) -> None:
    database(path, "CREATE TABLE dynamics (step INTEGER, x REAL, expert_0_top_norm REAL AS (abs(x)) VIRTUAL)")


def stored_generated_column(path: Path) -> None:
    database(path, "CREATE TABLE dynamics (step INTEGER, x REAL, expert_0_top_norm REAL AS (abs(x)) STORED)")


def no_step(path: Path) -> None:
    database(path, *dynamics(numbers(range(3)), step="epoch INTEGER"))


def no_expert_columns(path: Path) -> None:
    database(path, *dynamics(numbers(range(3), 3), ["loss", "accuracy", "expert_0_accuracy"]))


def means_instead_of_norms(path: Path) -> None:
    database(path, *dynamics(numbers(range(3), 2), ["expert_0_top_mean", "expert_1_top_mean"]))


def unknown_layer_metrics(path: Path) -> None:
    database(path, *dynamics(numbers(range(3), 2), ["layer_0_expert_0_entropy", "layer_00_expert_0_top_norm"]))


def unicode_digits(path: Path) -> None:
    database(path, *dynamics(numbers(range(3), 1), ["expert_\u0661_top_norm"]))


# -- Values of wrong types --------------------------------------------------------------------------------------------


def _one_value(path: Path, value: object, column: int = 2) -> None:
    rows = [list(row) for row in numbers(range(1, 6))]
    rows[3][column] = value
    database(path, *dynamics(rows))


def text_value(path: Path) -> None:
    _one_value(path, "<script>alert(1)</script>")


def blob_value(path: Path) -> None:
    _one_value(path, b"\0\1\2")


def float32_value(path: Path) -> None:
    _one_value(path, struct.pack("<f", 1.5))


def text_in_loss(path: Path) -> None:
    database(path, *dynamics([(1, 0.5, "n/a")], ["expert_0_top_norm", "loss"]))


def norms_declared_as_text(path: Path) -> None:
    database(path, "CREATE TABLE dynamics (step INTEGER, expert_0_top_norm TEXT)", "INSERT INTO dynamics VALUES (1, 2)")


def null_step(path: Path) -> None:
    _one_value(path, None, 0)


def half_step(path: Path) -> None:
    _one_value(path, 1.5, 0)


def text_step(path: Path) -> None:
    _one_value(path, "one", 0)


def blob_step(path: Path) -> None:
    _one_value(path, struct.pack("<q", 4), 0)


def text_too_long(path: Path) -> None:
    _one_value(path, "x" * (17 << 20))


# -- Odd, but read as they are -----------------------------------------------------------------------------------------


def whole_real_steps(path: Path) -> None:
    database(path, *dynamics(numbers([0.0, 1.0, 2.0]), step="step REAL"))


def duplicated_steps(path: Path) -> None:
    database(path, *dynamics(numbers([1, 2, 2, 3, 2])))


def unordered_steps(path: Path) -> None:
    database(path, *dynamics(numbers([3, 1, 2, -5])))


def extreme_steps(path: Path) -> None:
    database(path, *dynamics(numbers([2**63 - 1, -(2**63), 0]), step="step INTEGER PRIMARY KEY"))


def step_gaps(path: Path) -> None:
    database(path, *dynamics(numbers([0, 10, 5000])))


def infinities(path: Path) -> None:
    infinity = float("inf")
    database(path, *dynamics([(0, infinity, -infinity, 1e308, infinity, 1e308, -1e308)]))


def huge_integers(path: Path) -> None:
    database(path, "CREATE TABLE dynamics (step, expert_0_top_norm)", f"INSERT INTO dynamics VALUES (1, {2**63 - 1})")


def nulls(path: Path) -> None:
    database(path, *dynamics([(0, *[None] * 6), (1, None, 1.0, None, 2.0, None, 3.0)]))


def many_columns(path: Path) -> None:
    names = [f"expert_{i}_{tier}_norm" for i in range(700) for tier in schema.TIERS][:1999]
    database(path, *dynamics(numbers(range(3), 1999), names))


def names_as_weapons(path: Path) -> None:
    names = [
        "expert_0_top_norm",
        "<img src=x onerror=alert(1)>",
        'a"; DROP TABLE dynamics; --',
        "new\nline",
        "\u202eltr",
    ]
    database(path, *dynamics(numbers(range(3), 5), names))


def look_alike_names(path: Path) -> None:
    names = [
        "expert_0_top_norm",
        "expert_00_top_norm",
        "Expert_1_top_norm",
        "expert_1_top_norm ",
        "expert_99999_top_norm",
    ]
    database(path, *dynamics(numbers(range(3), 5), names))


def column_names_not_utf8(path: Path) -> None:
    database(path, *dynamics(numbers(range(3), 2), ["expert_0_top_norm", "xyzzy"]))
    path.write_bytes(path.read_bytes().replace(b"xyzzy", b"\xff\xfezzy"))


def other_writer(path: Path) -> None:
    """Write extra columns, some with text, as other writers of this schema do."""
    columns = "step INTEGER PRIMARY KEY, ts TEXT, num_experts INTEGER, expert_0_top_norm REAL, expert_0_top_max REAL"
    database(
        path,
        f"CREATE TABLE dynamics ({columns}, expert_1_note TEXT, layer_0_expert_0_top_norm REAL)",
        "INSERT INTO dynamics VALUES (1, '2026-11-22', 2, 0.5, 0.75, 'hot', 3)",
    )


def triggers(path: Path) -> None:
    good(path)
    database(path, "CREATE TRIGGER t AFTER INSERT ON dynamics BEGIN DELETE FROM dynamics; END")


def without_rowid(path: Path) -> None:
    database(path, *dynamics(numbers([2, 1]), step="step INTEGER PRIMARY KEY", end="WITHOUT ROWID"))


def rowid_names_taken(path: Path) -> None:
    database(path, *dynamics(numbers([2, 1], 4), ["expert_0_top_norm", "rowid", "_rowid_", "OID"]))


def checks_that_call_functions(path: Path) -> None:
    check = "CHECK (length(hex(randomblob(1000))) > 0)"
    database(path, *dynamics(numbers(range(3)), step=f"step INTEGER {check}"))


def indexes_on_expressions(path: Path) -> None:
    database(path, *dynamics(numbers(range(3))), "CREATE INDEX i ON dynamics (abs(expert_0_top_norm), step)")


def utf16(path: Path) -> None:
    database(path, *dynamics(numbers(range(3))), pragmas=["encoding='UTF-16le'"])


def large_ignored_column(path: Path) -> None:
    columns = "step INTEGER, expert_0_top_norm REAL, picture BLOB"
    database(path, f"CREATE TABLE dynamics ({columns})", "INSERT INTO dynamics VALUES (1, 0.5, zeroblob(9000000))")


def one_row(path: Path) -> None:
    good(path, steps=1)


def no_rows(path: Path) -> None:
    good(path, steps=0)


def documented_minimum(path: Path) -> None:
    """Write only the documented columns: three experts, no divergence for the last one."""
    names = [f"expert_{expert}_{tier}_norm" for expert in range(3) for tier in schema.TIERS] + ["expert_1_divergence"]
    database(path, *dynamics(numbers(range(10), len(names)), names))


def newer_version(path: Path) -> None:
    good(path)
    database(path, pragmas=["user_version=99"])


# -- Dialects of other writers ---------------------------------------------------------------------------------------

LAYERED = [f"layer_{layer}_expert_{i}_{tier}_norm" for layer in range(2) for i in range(2) for tier in schema.TIERS]


def only_columns_per_layer(path: Path) -> None:
    """Write no means: 3 rows, 2 layers, 2 experts."""
    database(path, *dynamics(numbers(range(3), len(LAYERED)), LAYERED))


def columns_per_layer_and_means(path: Path) -> None:
    database(path, *dynamics(numbers(range(3), len(LAYERED) + 6), LAYERED + NORMS))


def columns_per_layer_and_the_table(path: Path) -> None:
    _with_more_columns(good(path), LAYERED)


def only_whole_norms_per_layer(path: Path) -> None:
    names = ["layer_0_expert_0_clean_norm", "layer_0_expert_1_perturbed_norm", "layer_1_expert_1_norm"]
    database(path, *dynamics(numbers(range(3), 3), names))


def text_in_a_layer(path: Path) -> None:
    database(path, *dynamics([(1, 0.5, "high")], ["expert_0_top_norm", "layer_0_expert_0_top_norm"]))


def only_gradient_norms(path: Path) -> None:
    names = [f"expert_{expert}_grad_{what}" for expert in range(3) for what in ("norm", "var")]
    database(path, *dynamics(numbers(range(200), 6), names))


def only_whole_norms(path: Path) -> None:
    database(path, *dynamics(numbers(range(3), 2), ["expert_0_clean_norm", "expert_1_perturbed_norm"]))


def a_mean_for_a_norm(path: Path) -> None:
    names = [name.replace("top_norm", "top_mean") for name in NORMS]
    database(path, *dynamics(numbers(range(3)), names))


def norms_with_their_statistics(path: Path) -> None:
    more = [f"expert_{i}_{tier}_{what}" for i in range(2) for tier in schema.TIERS for what in ("mean", "max", "min")]
    database(path, *dynamics(numbers(range(3), 6 + len(more) + 2), [*NORMS, *more, "ts", "num_experts"]))


def histograms(path: Path) -> None:
    _add_histograms(good(path), 120_000)


def histograms_with_text(path: Path) -> None:
    _with(path, "CREATE TABLE histograms (step INTEGER, bin INTEGER)", "INSERT INTO histograms VALUES (1, 'high')")


def histograms_are_a_view(path: Path) -> None:
    _with(path, "CREATE VIEW histograms AS SELECT 1 AS step")


def _add_histograms(path: Path, rows: int) -> None:
    insert = "INSERT INTO histograms VALUES (?, ?, ?, ?, ?, ?)"
    database(path, (insert, [(row, 0, 0, "top", row % 30 - 15, 7) for row in range(rows)]))


def _with_more_columns(path: Path, names: Sequence[str]) -> None:
    database(path, *(f"ALTER TABLE dynamics ADD COLUMN {name} REAL" for name in names))


# -- Damage outside the tables that are read ---------------------------------------------------------------------------


def page_that_belongs_to_nothing(path: Path) -> None:
    """Delete an empty table from the schema but not its page: the file is larger than its contents."""
    good(path)
    database(path, "CREATE TABLE forgotten (a)")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute("DELETE FROM sqlite_master WHERE name = 'forgotten'")


def another_table_damaged(path: Path) -> None:
    good(path)
    database(path, "CREATE TABLE notes (a)", ("INSERT INTO notes VALUES (?)", [("x" * 50,)] * 200))
    _patch(path, _root(path, "notes"), b"\xff" * 64)


def strict_table(path: Path) -> None:
    database(path, *dynamics(numbers(range(3)), end="STRICT"))


def freed_pages(path: Path) -> None:
    """Delete rows without shrinking the file."""
    good(path, steps=400)
    database(path, "DELETE FROM dynamics WHERE step >= 40", "DROP TABLE layers")


def trailing_garbage(path: Path) -> None:
    path.write_bytes(good(path).read_bytes() + b"\xff" * 5000)


def two_files_in_one(path: Path) -> None:
    path.write_bytes(good(path).read_bytes() * 2)


def million_nested_parentheses(path: Path) -> None:
    database(path, *dynamics(numbers(range(3))))
    _forge(path, "CREATE TABLE dynamics (step INTEGER, expert_0_top_norm REAL CHECK (" + "(" * 100_000 + "1")


# -- Zip archives ------------------------------------------------------------------------------------------------------


def archive(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip archive of these members."""
    with zipfile.ZipFile(path, "w", method) as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile warns about duplicate names
        for name, data in members:
            packed.writestr(name, data)
    return path


def run_bytes(path: Path, seed: int = 0) -> bytes:
    """Return a good run as bytes; `path` names a temporary file."""
    data = good(path.with_suffix(f".{seed}"), steps=5, seed=seed).read_bytes()
    path.with_suffix(f".{seed}").unlink()
    return data


def zip_of_a_cut_file(path: Path) -> None:
    archive(path, ("dynamics.db", b"SQLite format 3"))


def zip_of_nothing(path: Path) -> None:
    archive(path)


def zip_of_other_files(path: Path) -> None:
    archive(path, ("results/<b>.csv", b"step,loss"), ("notes.txt", b"hello"))


def checkpoint(path: Path) -> None:
    archive(path, ("model/data.pkl", b"\x80\x02"), ("model/data/0", bytes(100)), method=zipfile.ZIP_STORED)


def zip_in_a_zip(path: Path) -> None:
    inner = archive(path.with_suffix(".inner"), ("dynamics.db", run_bytes(path)))
    archive(path, ("runs.zip", inner.read_bytes()))
    inner.unlink()


def zip_called_a_run_in_a_zip(path: Path) -> None:
    zip_of_nothing(path)
    archive(path, ("dynamics.db", path.read_bytes()))


def zip_cut_short(path: Path) -> None:
    archive(path, ("dynamics.db", run_bytes(path)))
    path.write_bytes(path.read_bytes()[:-30])


def zip_with_a_password(path: Path) -> None:
    archive(path, ("dynamics.db", run_bytes(path)))
    data = bytearray(path.read_bytes())
    data[6] |= 1  # in the member's header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    path.write_bytes(data)


def zip_packed_in_an_unknown_way(path: Path) -> None:
    archive(path, ("dynamics.db", run_bytes(path)))
    data = bytearray(path.read_bytes())
    data[8], data[data.index(b"PK\x01\x02") + 10] = 99, 99
    path.write_bytes(data)


def zip_with_a_changed_byte(path: Path) -> None:
    archive(path, ("dynamics.db", run_bytes(path)), method=zipfile.ZIP_STORED)
    _patch(path, 3000, b"\xa5")


def zip_that_asks_for_memory(path: Path) -> None:
    """Write an LZMA member that declares a dictionary of 4 GB."""
    archive(path, ("dynamics.db", run_bytes(path)), method=zipfile.ZIP_LZMA)
    data = path.read_bytes()
    _patch(path, data.index(b"dynamics.db") + len("dynamics.db") + 5, b"\xff\xff\xff\xff")


def zip_bomb(path: Path) -> None:
    """Write a kilobyte that declares 4 GB unpacked."""
    archive(path, ("dynamics.db", bytes(1 << 20)))
    data = bytearray(path.read_bytes())
    for offset in (22, data.index(b"PK\x01\x02") + 24):
        data[offset : offset + 4] = b"\xfe\xff\xff\xff"
    path.write_bytes(data)


def zip_of_a_link(path: Path) -> None:
    link = zipfile.ZipInfo("dynamics.db")
    link.external_attr = 0o120777 << 16
    archive(path, (link, b"/etc/passwd"))


# -- Bad side tables ---------------------------------------------------------------------------------------------------


def _with(path: Path, *statements: str | tuple[str, Sequence[object]]) -> None:
    database(path, *dynamics(numbers(range(3))), *statements)


def facts_not_utf8(path: Path) -> None:
    _with(path, "CREATE TABLE run (key TEXT, value TEXT)", "INSERT INTO run VALUES ('host', CAST(x'fffe41' AS TEXT))")


def giant_fact(path: Path) -> None:
    rows = [("seed", "1"), ("environment", "x" * 100_000)]
    _with(path, "CREATE TABLE run (key TEXT, value TEXT)", ("INSERT INTO run VALUES (?, ?)", rows))


def gigantic_fact(path: Path) -> None:
    _with(path, "CREATE TABLE run (key TEXT, value TEXT)", ("INSERT INTO run VALUES (?, ?)", [("a", "x" * (17 << 20))]))


def endless_facts(path: Path) -> None:
    rows = [(f"key {i}", "1") for i in range(2500)]
    _with(path, "CREATE TABLE run (key TEXT, value TEXT)", ("INSERT INTO run VALUES (?, ?)", rows))


def odd_facts(path: Path) -> None:
    deep, wide = "[" * 20_000, "9" * 20_000
    rows = [("deep", deep), ("wide", wide), ("seed", "9" * 400), (None, "1"), ("perturbation_scale", "1e999")]
    _with(path, "CREATE TABLE run (key TEXT, value TEXT)", ("INSERT INTO run VALUES (?, ?)", rows))


def facts_are_a_view(path: Path) -> None:
    _with(path, "CREATE VIEW run AS SELECT 'seed' AS key, load_extension('x') AS value")


def layers_with_text(path: Path) -> None:
    _with(path, "CREATE TABLE layers (step INTEGER, top_norm REAL)", "INSERT INTO layers VALUES (1, 'high')")


def layers_of_another_program(path: Path) -> None:
    _with(path, "CREATE TABLE layers (width, height)")


def layers_damaged(path: Path) -> None:
    _patch(path, _root(good(path, seed=7), "layers"), b"\xff" * 64)


def events_in_masses(path: Path) -> None:
    rows = [(i, f"event {i}") for i in range(12_000)]
    columns = "id INTEGER PRIMARY KEY, message TEXT"
    _with(path, f"CREATE TABLE events ({columns})", ("INSERT INTO events VALUES (?, ?)", rows))


# -- WAL ---------------------------------------------------------------------------------------------------------------


def wal_pair(path: Path, *, kept: int = 0, steps: int = 50, shm: bool = False) -> None:
    """Copy a live WAL file and its -wal: `kept` rows are in the main file, the others in the -wal."""
    live = path.with_suffix(".live")
    with closing(sqlite3.connect(live, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        create, (insert, rows) = dynamics(numbers(range(steps)))
        if kept:
            db.execute(str(create))
            db.executemany(insert, rows[:kept])  # type: ignore[arg-type]
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            db.execute(str(create))
        db.executemany(insert, rows[kept:])  # type: ignore[arg-type]
        for suffix in ("", "-wal", "-shm") if shm else ("", "-wal"):
            shutil.copy(f"{live}{suffix}", f"{path}{suffix}")
    live.unlink()


def wal_left_behind(path: Path) -> None:
    wal_pair(path)
    Path(f"{path}-wal").unlink()


def wal_left_behind_with_some_rows(path: Path) -> None:
    wal_pair(path, kept=20)
    Path(f"{path}-wal").unlink()


def wal_left_behind_without_rows(path: Path) -> None:
    database(path, *dynamics([]), pragmas=["journal_mode=WAL"])


# -- A writer at work, in a separate process: closing any file ends all POSIX locks that a process holds on it ---------

WRITER = """
import sqlite3, sys, threading, time
path, mode, task = sys.argv[1:]
db = sqlite3.connect(path, isolation_level=None, timeout=0.5)
db.execute(f"PRAGMA journal_mode={mode}")
step = db.execute("SELECT max(step) FROM dynamics").fetchone()[0]
db.execute("BEGIN EXCLUSIVE" if task == "lock" else "SELECT 1")
print("ready", flush=True)
stop = threading.Thread(target=sys.stdin.read, daemon=True)
stop.start()
while stop.is_alive():
    time.sleep(0.002)
    if task == "write":
        db.execute("INSERT INTO dynamics (step) VALUES (?)", (step := step + 1,))
print("last step", step)
"""


@contextmanager
def writer(path: Path, mode: str, task: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that writes the file row by row, or keeps it locked, until its stdin is closed."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path, mode, task], stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
