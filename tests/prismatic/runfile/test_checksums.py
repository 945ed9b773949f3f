"""The checksums of a run file: recorded when it is closed, removed when it is opened again, compared by readers."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from prismatic.contract.checksums import FACT
from prismatic.errors import LoggerError
from prismatic.runfile.logger import DynamicsLogger
from prismatic.runfile.manage import migrate, snapshot
from validation.files.read_files import read_files
from validation.files.run_file import RunFile

NORMS = ("top_norm", "bottom_norm", "middle_norm")


def written(path: Path, steps: range = range(0, 300, 10)) -> Path:
    """Log a run with NULLs, integers and texts in its tables, and close it."""
    with DynamicsLogger(path) as logger:
        logger.log_run({"config.seed": 3, "note": "ü\n", "nothing": None})
        logger.log_table("experts", [{"expert": 0, "role": "clean", "seed": None}, {"expert": 1, "role": "perturbed"}])
        for step in steps:
            values = dict.fromkeys(NORMS, math.nan if step == 20 else step + 0.1)
            layers = [{"layer": 0, "expert": i, "source": "merged", "norm": 1 / 3, "nonfinite": 0} for i in range(2)]
            gradients = {f"expert_{i}": values for i in range(2)}
            logger.log(step, {"expert_gradients": gradients, "layers": layers}, loss=1.5, of_ones_own=7.0)
    return path


def recorded(path: Path) -> dict[str, dict[str, str]] | None:
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT value FROM run WHERE key = ?", (FACT,)).fetchone()
    return json.loads(found[0]) if found else None


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def read(path: Path) -> RunFile:
    (run,), rejected = read_files([path])
    assert not rejected
    return run


def test_a_closed_file_has_a_checksum_of_every_known_column_and_readers_compute_the_same(tmp_path: Path) -> None:
    path = written(tmp_path / "dynamics.db")
    found = recorded(path)
    assert found is not None
    assert {"step", "loss", "expert_1_top_norm"} <= found["dynamics"].keys()
    assert "of_ones_own" not in found["dynamics"]
    assert set(found["run"]) == {"key", "value"}
    run = read(path)
    assert (run.damage, FACT in run.facts, run.facts["note"]) == ((), False, "ü\n")


@pytest.mark.parametrize(
    ("statement", "column"),
    [
        (
            "UPDATE dynamics SET expert_1_top_norm = expert_1_top_norm * (1 + 1e-15) WHERE step = 50",
            "dynamics.expert_1",
        ),
        ("UPDATE dynamics SET loss = NULL WHERE step = 50", "dynamics.loss"),
        ("UPDATE dynamics SET step = 51 WHERE step = 50", "dynamics.step"),
        ("DELETE FROM dynamics WHERE step = 290", "dynamics.step"),
        ("UPDATE layers SET nonfinite = NULL WHERE step = 50", "layers.nonfinite"),
        ("UPDATE layers SET source = 'Merged' WHERE step = 50", "layers.source"),
        ("UPDATE run SET value = 4 WHERE key = 'config.seed'", "run.value"),
        ("DELETE FROM run WHERE key = 'note'", "run.key"),
        ("INSERT INTO events (code) VALUES ('x')", "events.code"),
        ("DROP TABLE pairs", "pairs.step"),
        ("ALTER TABLE dynamics DROP COLUMN expert_0_middle_norm", "dynamics.expert_0_middle_norm"),
        (f"UPDATE run SET value = '{{' WHERE key = '{FACT}'", "the record of the checksums itself"),
        (f"UPDATE run SET value = '[1]' WHERE key = '{FACT}'", "the record of the checksums itself"),
        (f"UPDATE run SET value = NULL WHERE key = '{FACT}'", "the record of the checksums itself"),
    ],
)
def test_any_change_of_the_contents_is_named_and_the_file_is_not_continued(
    tmp_path: Path, statement: str, column: str
) -> None:
    path = written(tmp_path / "dynamics.db")
    change(path, statement)
    assert column in read(path).damage[0]
    with pytest.raises(LoggerError, match="are not those that were written"):
        DynamicsLogger(path)


def test_changes_of_the_file_alone_keep_the_checksums(tmp_path: Path) -> None:
    path = written(tmp_path / "dynamics.db")
    change(path, "PRAGMA page_size = 512", "VACUUM", "ALTER TABLE dynamics ADD COLUMN mine REAL", "CREATE TABLE t (a)")
    assert not read(path).damage
    assert not read(snapshot(path, tmp_path / "copy.db")).damage


def test_a_file_has_no_checksums_while_it_is_written_and_new_ones_after_a_resume(tmp_path: Path) -> None:
    path = written(tmp_path / "dynamics.db")
    first = recorded(path)
    logger = DynamicsLogger(path, resume="must")
    assert recorded(path) is None
    logger.log(300, {"expert_gradients": {"expert_0": dict.fromkeys(NORMS, 1.0)}})
    logger.close()
    second = recorded(path)
    assert first
    assert second
    assert first["dynamics"]["step"] != second["dynamics"]["step"]
    assert first["experts"] == second["experts"]
    assert not read(path).damage


def test_a_file_without_checksums_is_continued_and_read_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "dynamics.db")
    change(path, f"DELETE FROM run WHERE key = '{FACT}'", "UPDATE dynamics SET loss = 9")
    assert not read(path).damage
    DynamicsLogger(path).close()
    assert recorded(path)
    assert not read(path).damage


def test_an_upgraded_file_gets_checksums_without_its_columns_of_text(tmp_path: Path) -> None:
    path = tmp_path / "dynamics.db"
    change(
        path,
        "CREATE TABLE dynamics (step INTEGER, ts TEXT, expert_0_top_norm REAL, expert_1_top_norm REAL, "
        "expert_1_note TEXT, loss)",
        "INSERT INTO dynamics VALUES (1, 'monday', 0.5, 1, 'hot', 3), (2, NULL, 0.25, 2, NULL, NULL)",
    )
    migrate(path)
    found = recorded(path)
    assert found
    assert {"step", "expert_0_top_norm"} <= found["dynamics"].keys()
    assert not {"ts", "expert_1_note", "loss"} & found["dynamics"].keys()
    assert not read(path).damage


def test_values_of_other_types_than_their_column_have_no_checksum(tmp_path: Path) -> None:
    path = written(tmp_path / "dynamics.db")
    change(path, f"DELETE FROM run WHERE key = '{FACT}'", "UPDATE layers SET norm = 'high' WHERE step = 50")
    DynamicsLogger(path).close()
    found = recorded(path)
    assert found
    assert "norm" not in found["layers"]
    assert "top_norm" in found["layers"]
