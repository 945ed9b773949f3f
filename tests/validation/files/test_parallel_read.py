"""Reading a file with two processes gives the same run, or the same error, as reading it with one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic import DynamicsLogger
from tests.validation.files.test_sources import assert_equal
from validation.files.limits import ReadLimits
from validation.files.read_files import read_files
from validation.files.run_file import Rejected, RunFile
from validation.files.sandbox import parallel_read
from validation.files.sandbox.incremental_read import IncrementalReader
from validation.files.sandbox.sqlite_client import SqliteClient
from validation.files.sources import read_sources

EXAMPLES = Path(__file__).parents[3] / "examples"
NORMS = ("top_norm", "bottom_norm", "middle_norm")


def both_ways(path: Path, limits: ReadLimits | None = None) -> list[tuple[list[RunFile], list[Rejected]]]:
    """Return the result of one process, and that of two."""
    found = []
    for long in (1 << 40, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parallel_read, "LONG_FILE", long)
            found.append(read_files([path], limits=limits))
    return found


def written(path: Path, steps: list[int], last: object = 1.0, kind: str = "") -> Path:
    """Write a file with these steps in this order, and this value in the last row."""
    columns = [f"expert_{expert}_{norm}" for expert in range(2) for norm in NORMS]
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(f"CREATE TABLE dynamics (step INTEGER{' PRIMARY KEY' * bool(kind)}, {', '.join(columns)}) {kind}")
        rows = [(step, *(1.0 + place + n for n in range(6))) for place, step in enumerate(steps)]
        rows[-1:] = [(*row[:-1], last) for row in rows[-1:]]
        file.executemany("INSERT INTO dynamics VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Record the requests to the child."""
    seen: list[dict[str, object]] = []
    read = SqliteClient.read

    def spy(self: SqliteClient, path: Path, name: str, **given: object) -> object:
        seen.append(given)
        return read(self, path, name, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(SqliteClient, "read", spy)
    return seen


@pytest.mark.parametrize("example", ["as-is", "positive-control"])
def test_an_example_is_the_same_run(example: str, asked: list[dict[str, object]]) -> None:
    (one, _), (two, _) = both_ways(EXAMPLES / f"{example}.db")
    assert_equal(one[0], two[0])
    assert [{*given} & {"since", "until"} for given in asked[1:]] in ([{"since"}, {"until"}], [{"until"}, {"since"}])


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 20), max_size=30))
def test_any_steps_in_any_order_are_the_same_run(steps: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = written(tmp_path_factory.mktemp("steps") / "dynamics.db", steps)
    (one, _), (two, _) = both_ways(path)
    assert_equal(one[0], two[0])


@pytest.mark.parametrize("kind", ["WITHOUT ROWID", "STRICT"])
def test_tables_of_every_kind_are_the_same_run(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path / "dynamics.db", [*range(9)], kind="WITHOUT ROWID" if kind == "WITHOUT ROWID" else "")
    (one, _), (two, _) = both_ways(path)
    assert_equal(one[0], two[0])


@pytest.mark.parametrize(
    ("last", "limits"),
    [("text", ReadLimits()), (b"bytes", ReadLimits()), (1.0, ReadLimits(rows=9)), (1.0, ReadLimits(values=50))],
)
def test_an_error_in_the_second_half_is_the_same(last: object, limits: ReadLimits, tmp_path: Path) -> None:
    path = written(tmp_path / "dynamics.db", [*range(10)], last)
    (_, one), (_, two) = both_ways(path, limits)
    assert str(one[0].error) == str(two[0].error)


def test_damage_in_the_first_half_is_the_same_error(tmp_path: Path) -> None:
    path = written(tmp_path / "dynamics.db", [*range(4000)])
    with open(path, "r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 4096)
    (_, one), (_, two) = both_ways(path)
    assert str(one[0].error) == str(two[0].error)


def test_no_third_process_is_started(asked: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_read, "LONG_FILE", 0)
    busy = SqliteClient(ReadLimits())
    with closing(busy):
        assert busy.middle_rowid(EXAMPLES / "as-is.db", "x", immutable=True)
        runs, _ = read_files([EXAMPLES / "as-is.db"])
    assert len(runs) == 1
    assert [{*given} & {"since", "until"} for given in asked] == [set()]


def test_worker_slots_are_free_again_afterwards(tmp_path: Path) -> None:
    path = written(tmp_path / "dynamics.db", [*range(10)], "text")
    both_ways(path)
    with closing(SqliteClient(ReadLimits())) as first, closing(first.start_second() or first) as second:
        assert second is not first
        assert first.start_second() is None


def test_an_incremental_reading_continues_from_both_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel_read, "LONG_FILE", 0)
    growing = IncrementalReader()
    with DynamicsLogger(tmp_path / "dynamics.db") as logger:
        logger.log_run({"exit_state": "running", "run_hash": "abcdef123456"})
        for steps in (range(50), range(50, 80)):
            for step in steps:
                logger.log(
                    step, {"expert_gradients": {f"expert_{e}": dict.fromkeys(NORMS, 1.0 + step) for e in (0, 1)}}
                )
            logger.flush()
            (run,), _ = read_sources([tmp_path / "dynamics.db"], growing=growing)
            assert run.wide["step"].to_pylist() == [*range(steps.stop)]
