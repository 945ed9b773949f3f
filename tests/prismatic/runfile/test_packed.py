"""Runs of many experts: the real logger stores arrays, and files of version 4 are upgraded to them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prismatic.contract import schema
from prismatic.contract.checksums import FACT
from prismatic.contract.packing import PackedRows, unpack_row
from prismatic.measure.metrics import ExpertDynamics, PairDynamics, add_isolated, aggregate
from prismatic.runfile.logger import DynamicsLogger
from prismatic.runfile.manage import migrate
from tests.support.logged_runs import codes, columns, dynamics, execute, rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dynamics.db"


def measured(experts: int, layers: int = 2, step: int = 0) -> list[list[ExpertDynamics]]:
    """Numbers that float32 holds exactly, different for every layer and expert."""
    return [
        [
            ExpertDynamics(
                top_norm=1 + e / 256 + layer,
                bottom_norm=0.5 + e / 256,
                middle_norm=2.0 + step,
                norm=4.0 + e / 64,
                routing_weight=1 / 256,
                gradient_cosine=0.5,
                bottom_to_middle=-1.0,
                nonfinite=e % 2,
                missing_gradients=0,
                token_share=None,
            )
            for e in range(experts)
        ]
        for layer in range(layers)
    ]


def stored_rows(path: Path, table: str = "layers") -> list[dict[str, Any]]:
    return [row for packed in rows(path, f"SELECT * FROM packed_{table}") for row in unpack_row(table, packed)]


def test_256_experts_are_one_row_a_layer_and_means_by_role(path: Path):
    roles = ["clean", *["perturbed"] * 253, "control", "control"]
    with DynamicsLogger(path, num_experts=schema.wide_experts(256)) as logger:
        for step in range(3):
            logger.log(step, aggregate(measured(256, step=step), roles), loss=1.0)
    assert (len(rows(path, "SELECT * FROM packed_layers")), rows(path, "SELECT * FROM layers")) == (6, [])
    assert len(columns(path)) < 50
    (row,) = rows(path, "SELECT * FROM dynamics WHERE step = 2")
    controls = [(1 + e / 256) + (1 + e / 256 + 1) for e in (254, 255)]
    assert row["role_control_top_norm"] == pytest.approx(sum(controls) / 4)
    assert (row["role_clean_norm"], row["role_perturbed_middle_norm"], row["loss"]) == (4.0, 4.0, 1.0)
    assert row["role_control_direction"] == 0.5
    assert {name for name in row if name.startswith("role_")} <= {column.name for column in schema.role_columns()}
    assert codes(path) == []


def test_each_number_of_a_large_mixture_comes_back(path: Path):
    layers = measured(40)
    with DynamicsLogger(path) as logger:
        logger.log(7, aggregate(layers))
    found = stored_rows(path)
    assert len(found) == 80
    for row in found:
        expert = layers[row["layer"]][row["expert"]]
        known = {name: value for name, value in vars(expert).items() if name != "peer"}
        assert {name: row[name] for name in known} == known
        assert (row["step"], row["source"]) == (7, "merged")


def test_rows_of_many_experts_that_another_trainer_logs_are_packed_too(path: Path):
    layers = [{"layer": 1, "expert": e, "source": "merged", "norm": float(e), "nonfinite": 1} for e in range(50)]
    pairs = [{"layer": 1, "expert": e, "other": 49, "weight_distance": e / 64} for e in range(49)]
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics(2) | {"layers": layers, "pairs": pairs})
    keys = layers[0].keys()
    assert [{name: row[name] for name in keys} for row in stored_rows(path)] == layers
    assert [{name: row[name] for name in pairs[0]} for row in stored_rows(path, "pairs")] == pairs
    assert (rows(path, "SELECT * FROM layers"), rows(path, "SELECT * FROM pairs")) == ([], [])


def test_the_probe_adds_packed_rows_without_the_experts_it_did_not_reach(path: Path):
    found = aggregate(measured(40))
    add_isolated(found, measured(40), [[PairDynamics(0, 39, 1.0, None, 0.5)]], frozenset({(1, 3)}))
    with DynamicsLogger(path) as logger:
        logger.log(0, found)
    isolated = [(row["layer"], row["expert"]) for row in stored_rows(path) if row["source"] == "isolated"]
    assert isolated == [(layer, e) for layer in range(2) for e in range(40) if (layer, e) != (1, 3)]
    (pair,) = stored_rows(path, "pairs")
    assert (pair["expert"], pair["other"], pair["weight_distance"], pair["output_distance"]) == (0, 39, None, 0.5)


def test_a_rewind_deletes_packed_rows(path: Path):
    with DynamicsLogger(path) as logger:
        for step in (0, 1, 2, 1):
            logger.log(step, aggregate(measured(40, step=step)))
    assert [row["step"] for row in rows(path, "SELECT step FROM packed_layers ORDER BY step")] == [0, 0, 1, 1]


def test_the_rows_of_a_large_mixture_read_like_a_list():
    rows = aggregate(measured(33))["layers"]
    assert isinstance(rows, PackedRows)
    assert (len(rows), rows[0]["expert"], rows[-1]["expert"]) == (66, 0, 32)
    assert [row["layer"] for row in rows[31:35]] == [0, 0, 1, 1]


def version_4(path: Path, experts: int) -> list[dict[str, Any]]:
    """Write a file as version 4 did, and return its rows of `layers`."""
    found = []
    with closing(sqlite3.connect(path)) as db:
        for statement in schema.create_statements(0):
            if "packed_" not in statement:
                db.execute(statement)
        for step in (0, 10):
            db.execute("INSERT INTO dynamics (step, loss) VALUES (?, 1.0)", (step,))
            for e in range(experts):
                row = {"step": step, "layer": 0, "expert": e, "source": "merged", "norm": e / 8, "nonfinite": e}
                found.append(row)
                names = ", ".join(row)
                db.execute(f"INSERT INTO layers ({names}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        db.execute("PRAGMA user_version = 4")
        db.commit()
    return found


def test_an_upgrade_packs_the_rows_of_many_experts(path: Path):
    before = version_4(path, 40)
    assert migrate(path) == path.with_name("dynamics.db.v4")
    assert [{name: row[name] for name in before[0]} for row in stored_rows(path)] == before
    assert rows(path, "SELECT * FROM layers") == []
    assert rows(path, f"SELECT value FROM run WHERE key = '{FACT}'")


def test_an_upgrade_leaves_the_rows_of_few_experts_and_those_it_cannot_pack(path: Path, tmp_path: Path):
    before = version_4(path, 32)
    migrate(path)
    assert len(rows(path, "SELECT * FROM layers")) == len(before)
    other = tmp_path / "other.db"
    version_4(other, 40)
    execute(other, "ALTER TABLE layers ADD COLUMN mine REAL")
    migrate(other)
    assert len(rows(other, "SELECT * FROM layers")) == 80
    assert rows(other, "SELECT * FROM packed_layers") == []


def test_a_resumed_file_of_version_4_goes_on_packed(path: Path):
    version_4(path, 40)
    with DynamicsLogger(path, resume="must") as logger:
        logger.log(20, aggregate(measured(40, layers=1)))
    assert [row["step"] for row in rows(path, "SELECT step FROM packed_layers ORDER BY step")] == [0, 10, 20]


@pytest.mark.filterwarnings("ignore:.*is not logged")
def test_what_a_packed_row_cannot_hold_is_an_event(path: Path):
    layer = [{"layer": 0, "expert": e, "source": "merged", "norm": 1.0, "mine": 2.0} for e in range(40)]
    with DynamicsLogger(path) as logger:
        for step in range(2):
            logger.log(step, {"expert_gradients": {"expert_0": {"norm": 1.0}}, "layers": [*layer, layer[7]]})
    messages = [event["message"] for event in rows(path, "SELECT message FROM events ORDER BY id")]
    assert messages == [
        "'mine' is not logged: rows of many experts have no columns of their own",
        "a row or column is not logged: two rows of `layers` have the same key, and the later one is kept",
    ]
    assert len(stored_rows(path)) == 80
