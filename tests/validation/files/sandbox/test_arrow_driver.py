"""Arrow's driver against Python's sqlite3: the same cells, types, positions and errors for every file."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prismatic.sandbox.sqlite_file import HARDENED, url_of
from tests.support import bad_files, fuzz
from tests.validation.files.test_read_files import CASES
from validation.files.errors import RunFileError
from validation.files.limits import ReadLimits
from validation.files.read_files import read_files
from validation.files.sandbox import arrow_driver, sqlite_checks, sqlite_client, sqlite_worker
from validation.files.sandbox.sqlite_client import WHOLE_FILE, FileContents, driver_library

EXAMPLES = Path(__file__).parents[4] / "examples"
DRIVER = arrow_driver.load(*driver_library())
Error = tuple[str, dict[str, Any]]
BY_DRIVER = ("dynamics", "scalars", "layers", "pairs", "histograms")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check for damage that runs out of time on a busy machine would make two readings differ."""
    for name in ("CHECK_SECONDS", "CHECK_SECONDS_IN_PLACE"):
        monkeypatch.setattr(sqlite_checks, name, 60.0)


def contents(path: Path, driver: Any, **request: Any) -> FileContents | Error:
    """Return what the parent makes of the child's reply, or the error; in this process, which is quick."""
    limits = request.pop("limits", ReadLimits())
    whole = {"path": str(path), "immutable": True, "limits": asdict(limits)}
    try:
        return sqlite_client._read_contents(io.BytesIO(reply_of(WHOLE_FILE | whole | request, driver)), limits)
    except RunFileError:
        raise
    except Exception as error:
        return sqlite_worker.reason(error)


def reply_of(request: Any, driver: Any) -> bytes:
    """Return what the child would write for a file that it can read."""
    sent: list[bytes] = []

    def send(message: Any, blobs: list[Any]) -> None:
        sent.extend([json.dumps(message).encode(), b"\n", *map(bytes, blobs)])

    send({**sqlite_worker.read(request, driver, send), "ok": True}, [])
    return b"".join(sent)


def assert_same(path: Path, *, one_error: bool = True, **request: Any) -> FileContents | str:
    """Check that both ways give the same contents or error, bit by bit, and return them; an error as text.

    one_error: False for files with several errors, of which either way names the first that it meets.
    """
    by_driver, by_sqlite3 = (contents(path, driver, **request) for driver in (DRIVER, None))
    if isinstance(by_driver[0], str) or isinstance(by_sqlite3[0], str):
        assert by_driver == by_sqlite3 if one_error else by_driver[0] == by_sqlite3[0]
        return str(by_driver)
    assert by_driver[0] == by_sqlite3[0]
    assert bits(by_driver[1]) == bits(by_sqlite3[1])
    return by_driver


def bits(tables: Mapping[str, pa.Table]) -> dict[str, list[tuple[str, pa.DataType, Any, Any]]]:
    """Return name, type, presence and values of each column; == on floats would not tell 0.0 from -0.0."""
    return {
        table: [
            (name, column.type, column.is_null().to_pylist(), held(column.combine_chunks()))
            for name, column in zip(columns.column_names, columns.columns, strict=True)
        ]
        for table, columns in tables.items()
    }


def held(column: pa.Array) -> Any:
    if not pa.types.is_primitive(column.type):
        return column.to_pylist()
    return column.fill_null(0).to_numpy().tobytes()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few rows fill several pages of both ways."""
    monkeypatch.setattr(sqlite_worker, "PAGE_CELLS", 12)
    monkeypatch.setattr(sqlite_worker, "DRIVER_PAGE_CELLS", 30)
    monkeypatch.setattr(sqlite_worker, "SENT_CELLS", 50)


class Spy:
    """A driver that counts the pages it was asked for, and those that it could not read."""

    def __init__(self) -> None:
        self.asked = self.refused = self.calls = 0

    def connect(self, url: str, pragmas: list[str]) -> Any:
        assert DRIVER
        connection = DRIVER.connect(url, pragmas)
        assert connection

        def page(*arguments: Any) -> Any:
            cells = connection.page(*arguments)
            self.asked, self.refused = self.asked + 1, self.refused + (cells is None)
            return cells

        def pages(queries: list[str], *arguments: Any) -> Any:
            self.calls += 1
            return [page(query, *arguments) for query in queries]

        return SimpleNamespace(pages=pages, close=connection.close)


def test_the_driver_is_installed_where_its_package_says() -> None:
    import adbc_driver_sqlite

    assert driver_library() == [adbc_driver_sqlite._driver_path()]
    assert DRIVER


# -- Equal answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.db")), ids=lambda path: path.stem)
def test_examples_are_read_by_the_driver_alone(example: Path) -> None:
    spy = Spy()
    assert not isinstance(contents(example, spy)[0], str)
    assert spy.asked >= len(BY_DRIVER)
    assert not spy.refused
    assert_same(example)


@pytest.mark.parametrize("immutable", [True, False], ids=["a copy", "in place"])
@pytest.mark.parametrize("make", [case[0] for case in CASES], ids=lambda make: make.__name__)
def test_hostile_files_give_the_same(tmp_path: Path, make: Callable[[Path], object], immutable: bool) -> None:
    path = tmp_path / "dynamics.db"
    make(path)
    assert_same(path, immutable=immutable)


@pytest.mark.long
@pytest.mark.usefixtures("small_pages")
def test_mutants_give_the_same(tmp_path: Path) -> None:
    for place, mutant in enumerate(fuzz.mutants(40, 11, fuzz.originals(tmp_path))):
        path = tmp_path / f"{place}.db"
        path.write_bytes(mutant.data)
        assert_same(path, limits=ReadLimits(seconds=8))


NUMBERS = st.none() | st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-0.0, math.inf])
ODD = st.sampled_from(["text", "1.5", "7", b"bytes", b"", "", "\u00e9", "\0"])
STEPS = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 30)
ODD_STEPS = STEPS | st.sampled_from([1.0, 2.0**60, 0.5, None, "2", b"2"])
TEXTS = st.sampled_from(["merged", "isolated"])
ODD_TEXTS = TEXTS | ODD | NUMBERS
TYPES = ["REAL", "", "INTEGER", "NUMERIC", "TEXT", "BLOB"]
NORMS = [f"expert_0_{metric}" for metric in ("top_norm", "bottom_norm", "middle_norm")]


def column(rows: int, regular: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Return a column of regular cells, of such cells after NULLs, or of regular and odd cells."""
    length = {"min_size": rows, "max_size": rows}
    after_nulls = st.builds(
        lambda cells, nulls: ([None] * nulls + cells)[:rows], st.lists(regular, **length), st.integers(0, 40)
    )
    return st.lists(regular, **length) | after_nulls | st.lists(regular | odd, **length)


@st.composite
def files(draw: st.DrawFn) -> dict[str, tuple[str, list[Any]]]:
    """Return for each table the SQL that makes it, and its rows."""
    rows = draw(st.integers(0, 40))
    made = {}
    for table, names in {"dynamics": ["step", *NORMS], "layers": ["step", "source", "norm", "expert"]}.items():
        kinds = {"step": (STEPS, ODD_STEPS), "expert": (STEPS, ODD_STEPS), "source": (TEXTS, ODD_TEXTS)}
        cells = [draw(column(rows, *kinds.get(name, (NUMBERS, ODD)))) for name in names]
        declared = ", ".join(f"{name} {draw(st.sampled_from(TYPES))}" for name in names)
        key = draw(st.sampled_from(["", "", ", other INTEGER PRIMARY KEY"]))
        made[table] = f"CREATE TABLE {table} ({declared}{key})", [*zip(*cells, strict=True)]
    return made


@pytest.mark.usefixtures("small_pages")
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(made=files(), first=st.none() | st.integers(-3, 45), deleted=st.integers(1, 50))
def test_any_cells_give_the_same(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, tuple[str, list[Any]]], first: int | None, deleted: int
) -> None:
    path = tmp_path_factory.mktemp("cells") / "dynamics.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        for table, (create, rows) in made.items():
            db.execute(create)
            names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")][:4]
            db.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES (?, ?, ?, ?)", rows)
            db.execute(f"DELETE FROM {table} WHERE rowid % 50 = {deleted}")
    assert_same(path, one_error=False, since={} if first is None else dict.fromkeys(BY_DRIVER, first))


# -- Pages, limits, and a file that is written meanwhile ---------------------------------------------------------------


def long_file(path: Path, rows: int, last: object = 1.5) -> Path:
    """Write `dynamics` with a row for each step from 0 on, and this norm in the last one."""
    numbers = [(step, *(0.5 + step + n for n in range(3))) for step in range(rows)]
    numbers[-1] = (*numbers[-1][:-1], last)
    create = f"CREATE TABLE dynamics (step INTEGER PRIMARY KEY, {', '.join(NORMS)})"
    return bad_files.database(path, create, ("INSERT INTO dynamics VALUES (?, ?, ?, ?)", numbers))


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("rows", [1, 6, 7, 8, 14, 15])
def test_pages_end_where_the_rows_end(tmp_path: Path, rows: int) -> None:
    found = assert_same(long_file(tmp_path / "a.db", rows))
    assert found[1]["dynamics"]["step"].to_pylist() == [*range(rows)]  # type: ignore[index]


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize(("steps", "calls"), [(range(0, 700, 10), 6), (range(70), 6), ([n * n for n in range(70)], 11)])
def test_two_pages_are_read_at_a_time_where_rowids_are_evenly_spaced(tmp_path: Path, steps: Any, calls: int) -> None:
    path, spy = long_file(tmp_path / "a.db", 70), Spy()
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany("UPDATE dynamics SET step = -1 - ? WHERE step = ?", [(step, n) for n, step in enumerate(steps)])
        db.execute("UPDATE dynamics SET step = -1 - step")
    found = contents(path, spy)
    assert found[1]["dynamics"]["step"].to_pylist() == [*steps]  # type: ignore[index]
    assert spy.calls == calls
    assert_same(path)


def test_pages_are_read_one_by_one_where_the_system_allows_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(sqlite_worker, "DRIVER_PAGE_CELLS", 500)
    assert_same(EXAMPLES / "as-is.db")


@pytest.mark.usefixtures("small_pages")
def test_the_last_possible_rowid_ends_the_table(tmp_path: Path) -> None:
    path = long_file(tmp_path / "a.db", 7)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE dynamics SET step = ? WHERE step = 6", [2**63 - 1])
        db.execute("UPDATE dynamics SET step = ? WHERE step = 0", [-(2**63)])
    found = assert_same(path)
    assert found[1]["dynamics"]["step"].to_pylist() == [-(2**63), *range(1, 6), 2**63 - 1]  # type: ignore[index]


@pytest.mark.usefixtures("small_pages")
def test_a_page_that_the_driver_refuses_is_read_by_sqlite3_and_so_are_the_rest(tmp_path: Path) -> None:
    """Whole steps as floats are no error."""
    path = long_file(tmp_path / "a.db", 40)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE other AS SELECT * FROM dynamics")
        db.execute("DROP TABLE dynamics")
        db.execute(f"CREATE TABLE dynamics (step BLOB, {', '.join(NORMS)})")
        db.execute(
            "INSERT INTO dynamics SELECT CASE WHEN step = 20 THEN 20.0 ELSE step END, "
            + ", ".join(NORMS)
            + " FROM other"
        )
    spy = Spy()
    found = contents(path, spy)
    assert found[1]["dynamics"]["step"].to_pylist() == [*range(40)]  # type: ignore[index]
    assert (spy.asked, spy.refused) == (3, 1)
    assert_same(path)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("limits", [{"rows": 9}, {"rows": 11, "values": 40}, {"rows": 9, "values": 36}, {"seconds": 0}])
def test_limits_are_the_same(tmp_path: Path, limits: dict[str, int]) -> None:
    assert "too_large" in str(found := assert_same(long_file(tmp_path / "a.db", 60), limits=ReadLimits(**limits))) or (
        "timeout" in str(found)
    )


@pytest.mark.parametrize("last", ["text", b"bytes"])
def test_the_cell_that_is_wrong_is_named(tmp_path: Path, last: object) -> None:
    assert "expert_0_middle_norm" in str(assert_same(long_file(tmp_path / "a.db", 60, last)))


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_living_writer_is_never_locked_out_or_misread(tmp_path: Path, mode: str) -> None:
    path = long_file(tmp_path / "a.db", 30_000)
    seen = [30_000]
    with bad_files.writer(path, mode, "write") as writing:
        while seen[-1] < 30_002 and len(seen) < 500:
            found = contents(path, DRIVER, immutable=False)
            steps = found[1]["dynamics"]["step"].to_pylist()  # type: ignore[index]
            assert steps == [*range(len(steps))]
            seen.append(len(steps))
        said, _ = writing.communicate()
    assert seen == sorted(seen)
    assert int(said.removeprefix("last step ")) >= seen[-1] - 1 > 30_000


def test_a_copied_pair_of_database_and_wal_gives_the_same(tmp_path: Path) -> None:
    bad_files.wal_pair(tmp_path / "a.db", kept=20)
    found = assert_same(tmp_path / "a.db", immutable=False)
    assert len(found[1]["dynamics"]) == 50  # type: ignore[arg-type, index]


# -- The driver may do no more than sqlite3 ----------------------------------------------------------------------------


def test_the_driver_writes_nothing(tmp_path: Path) -> None:
    path = bad_files.good(tmp_path / "a.db")
    assert DRIVER
    connection = DRIVER.connect(url_of(str(path), ""), HARDENED)
    assert connection
    for statement in ("DELETE FROM dynamics", "CREATE TABLE a (b)", "SELECT load_extension('a')", "nonsense"):
        assert connection.page(statement, 1, "q") is None, statement
    assert connection.page("SELECT count(*) FROM dynamics", 1, "q")
    connection.close()
    assert not DRIVER.connect(url_of(str(tmp_path / "none.db"), ""), HARDENED)
    assert not (tmp_path / "none.db").exists()


def test_files_are_read_without_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bad_files.good(tmp_path / "a.db")
    (with_it,), _ = read_files([path])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert driver_library() == []
    (without,), _ = read_files([path])
    assert with_it.wide.equals(without.wide)


@pytest.mark.parametrize("path", ["", "/nowhere/lib.so", __file__])
def test_a_library_that_cannot_be_loaded_is_no_driver(path: str) -> None:
    assert arrow_driver.load(path) is None
