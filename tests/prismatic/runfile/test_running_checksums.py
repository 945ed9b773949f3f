"""The checksums that the writing thread computes row by row are those of a reading of the whole file."""

from __future__ import annotations

import json
import math
import sqlite3
import tempfile
import threading
from contextlib import closing, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic.contract.checksums import FACT
from prismatic.contract.schema import STEP_TABLES
from prismatic.runfile import checksums
from prismatic.runfile.checksums import compute_checksums
from prismatic.runfile.database import RunDatabase
from prismatic.runfile.logger import DynamicsLogger

NEGATIVE_NAN = math.copysign(math.nan, -1)
NUMBERS = st.one_of(
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0.0, -0.0, NEGATIVE_NAN, True, None, "text", Fraction(1, 3), 2**53 + 1]),
)
CELLS = {
    "layer": st.integers(0, 1),
    "expert": st.integers(0, 1),
    "source": st.sampled_from(["merged", "isolated", "ü\0", None]),
}
LAYERS = st.fixed_dictionaries(CELLS, optional={"norm": NUMBERS, "nonfinite": NUMBERS, "Top_Norm": NUMBERS})
RECORDS = st.fixed_dictionaries(
    {"step": st.integers(-3, 30), "norms": st.lists(NUMBERS, max_size=4)},
    optional={
        "metrics": st.dictionaries(st.sampled_from(["loss", "nan_values", "nonfinite", "mine", "rowid"]), NUMBERS),
        "layers": st.lists(LAYERS, max_size=3),
        "other_thread": st.just(True),
    },
)
OPERATIONS = st.one_of(
    RECORDS,
    st.integers(1, 5),  # that many ordinary rows
    st.sampled_from(["flush", "reopen", "widen", "fact", "roles", "a reader's index", "a reader's trigger"]),
)


def log(logger: DynamicsLogger, record: dict[str, Any]) -> None:
    names = ("top_norm", "bottom_norm", "middle_norm", "divergence")
    gradients = {"expert_1": dict(zip(names, record["norms"], strict=False))}
    dynamics = {"expert_gradients": gradients, "layers": record.get("layers", [])}
    call = threading.Thread(
        target=logger.log, args=(record["step"], dynamics), kwargs=record.get("metrics", {}), daemon=True
    )
    if record.get("other_thread"):
        call.start()
        call.join()
    else:
        call.run()


def replay(path: Path, history: list[Any]) -> None:
    """Log, reopen, rewind and change the file as the history says, and close it."""
    logger = DynamicsLogger(path)
    for operation in history:
        match operation:
            case dict():
                log(logger, operation)
            case int():
                start = 1 + (logger.last_step or 0)
                for step in range(start, start + operation):
                    log(logger, {"step": step, "norms": [0.5, step / 3]})
            case "flush":
                logger.flush()
            case "reopen":
                logger.close()
                logger = DynamicsLogger(path, resume="must")
            case "widen":
                logger._ensure_schema(3)
            case "fact":
                logger.log_run({"config.seed": 3})
            case "roles":
                logger.log_table("experts", [{"expert": 0, "role": "clean"}], replace=True)
            case _:
                logger.close()
                change(path, operation)
                logger = DynamicsLogger(path)
    logger.close()


def change(path: Path, by_a_reader: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        if by_a_reader.endswith("index"):
            with suppress(sqlite3.IntegrityError):  # two rows have the same norm
                db.execute("CREATE UNIQUE INDEX IF NOT EXISTS u ON layers (norm)")
        else:
            db.execute("CREATE TRIGGER IF NOT EXISTS t AFTER INSERT ON layers BEGIN UPDATE layers SET norm = 1; END")


def recorded_and_read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    with closing(sqlite3.connect(path)) as db:
        (text,) = db.execute("SELECT value FROM run WHERE key = ?", (FACT,)).fetchone()
        return json.loads(text), compute_checksums(db)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=40, deadline=None)
@given(st.lists(OPERATIONS, max_size=12))
def test_after_any_history_the_recorded_checksums_are_those_of_a_whole_reading(history: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dynamics.db"
        replay(path, history)
        recorded, read = recorded_and_read(path)
        assert recorded == read


def tables_read_at_close(path: Path, history: list[Any], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the tables that are read to record the checksums after this history."""
    read: set[str] = set()

    def traced(connection: sqlite3.Connection, running: checksums.RunningChecksums | None = None) -> None:
        connection.set_trace_callback(
            lambda sql: read.update(table for table in checksums.TABLE_NAMES if f"FROM {table} NOT INDEXED" in sql)
        )
        checksums.record_checksums(connection, running)
        connection.set_trace_callback(None)

    monkeypatch.setattr("prismatic.runfile.database.record_checksums", traced)
    replay(path, history)
    monkeypatch.undo()
    recorded, found = recorded_and_read(path)
    assert recorded == found
    return read


SMALL = {"run", "experts", "tiers", "events"}
LAYER = {"layer": 0, "expert": 1, "source": "merged", "norm": 1 / 3}


def row(step: int, **others: Any) -> dict[str, Any]:
    return {"step": step, "norms": [math.nan, -0.0, 3], "layers": [LAYER], **others}


@pytest.mark.parametrize(
    ("history", "read"),
    [
        ([], set()),
        ([row(1), row(2), "flush", row(3), "widen", row(7, metrics={"loss": 2, "nonfinite": 1})], set()),
        ([5, "reopen", row(6), 5, "reopen", "reopen", 2], set()),
        ([row(5), row(6), row(5)], {"dynamics", "layers"}),
        ([row(5), {**row(3), "other_thread": True}], {"dynamics"}),
        ([row(5, layers=[LAYER, LAYER])], {"layers"}),
        ([row(5, metrics={"loss": 2**70})], {"dynamics"}),
        ([row(5, layers=[{**LAYER, "nonfinite": 2.0**63}]), "reopen", row(6)], set()),
        ([row(5), "a reader's trigger", row(6)], {*STEP_TABLES}),
    ],
)
def test_closing_reads_only_tables_of_which_rows_were_replaced_removed_or_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, history: list[Any], read: set[str]
) -> None:
    assert tables_read_at_close(tmp_path / "dynamics.db", history, monkeypatch) == SMALL | read


def insert_and_fail(database: RunDatabase) -> None:
    with database.transaction():
        database.insert("dynamics", ("step", "loss"), [[10, 1.0]])
        database.clear("no_such_table")


def test_scalars_without_a_column_and_rows_rolled_back_are_hashed_as_they_are_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "dynamics.db"
    with DynamicsLogger(path) as logger:
        for step in range(3):
            logger.log(step, {"expert_gradients": {}}, **{f"m{i}": i / 7 for i in range(2_050)})
    recorded, read = recorded_and_read(path)
    assert recorded == read
    database = RunDatabase(path)
    with pytest.raises(sqlite3.OperationalError):
        insert_and_fail(database)
    with database.transaction():
        database.insert("dynamics", ("step", "loss"), [[10, 2.0]])
    database.record_checksums()
    database.close()
    recorded, read = recorded_and_read(path)
    assert recorded == read
