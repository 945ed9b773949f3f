"""DynamicsLogger: logged values read back with plain sqlite3."""

from __future__ import annotations

import json
import math
import time
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic.contract import schema
from prismatic.contract.packing import MAX_EXPERT
from prismatic.errors import ConfigError
from prismatic.runfile.logger import DynamicsLogger
from prismatic.train.config import RunConfig
from tests.support.logged_runs import codes, columns, dynamics, execute, flat, log_steps, rows
from validation.files.read_files import read_files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "build" / "runs" / "abc" / "dynamics.db"


def test_num_experts_may_exceed_the_columns_of_a_table(path: Path):
    with DynamicsLogger(path, num_experts=250) as logger:
        logger.log(0, dynamics(250))
    beside = rows(path, "SELECT name FROM scalars")
    assert 200 < len(beside) < 700
    assert codes(path) == []


@pytest.mark.parametrize("experts", [2, 3, 17])
@pytest.mark.parametrize("given", [True, False], ids=["given", "from the first row"])
def test_all_documented_columns_exist_for_any_number_of_experts(path: Path, experts: int, given: bool):
    with DynamicsLogger(path, num_experts=experts if given else 0) as logger:
        logger.log(0, dynamics(experts))
    expected = ["step", "expert_0_clean_norm"]
    expected += [f"expert_{i}_{tier}_norm" for i in range(experts) for tier in ("top", "bottom", "middle")]
    expected += [f"expert_{i}_{name}" for i in range(1, experts) for name in ("perturbed_norm", "divergence")]
    assert set(expected) <= set(columns(path))
    assert set(columns(path)) == {column.name for column in schema.dynamics_columns(experts)}


def test_the_documented_names_work_without_any_row(path: Path):
    with DynamicsLogger(path) as logger:
        logger._ensure_schema(3)
    with DynamicsLogger(path) as logger:
        logger._ensure_schema()
    assert rows(path) == []
    assert "expert_2_divergence" in columns(path)


@pytest.mark.parametrize("experts", [2, 3, 17])
def test_a_row_read_back_equals_what_was_logged(path: Path, experts: int):
    logged = dynamics(experts)
    with DynamicsLogger(path) as logger:
        logger.log(40, logged, loss=2.25, learning_rate=1e-3)
    (row,) = rows(path)
    expected = {"step": 40, "loss": 2.25, "learning_rate": 1e-3, **flat(logged)}
    assert {name: row[name] for name in expected} == expected
    assert row["wall_time"] == pytest.approx(time.time(), abs=60)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.dictionaries(st.integers(0, 10**6), st.floats(allow_nan=False), max_size=20))
def test_every_float_comes_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, values: dict[int, float]):
    path = tmp_path_factory.mktemp("runs") / "dynamics.db"
    with DynamicsLogger(path) as logger:
        for step in sorted(values):
            logger.log_dynamics(step, {"expert_gradients": {"expert_0": {"top_norm": values[step]}}})
    assert {row["step"]: row["expert_0_top_norm"] for row in rows(path) if values} == values


@pytest.mark.parametrize("nothing", [None, {}, {"divergence_scores": {"expert_1_divergence": 1.0}}])
def test_a_step_without_measurements_writes_nothing(path: Path, nothing: dict | None):
    with DynamicsLogger(path) as logger:
        logger.log(0, nothing, loss=1.0)
        logger.log_dynamics(10, nothing)
    assert (rows(path), codes(path)) == ([], [])


def test_layers_become_rows_of_their_own(path: Path):
    layer = {column.name: 0.5 for column in schema.LAYERS_COLUMNS if column.name != "step"}
    layers = [layer | {"layer": i, "expert": e, "source": "merged", "nonfinite": 0} for i in (0, 1) for e in (0, 1)]
    with DynamicsLogger(path) as logger:
        logger.log(3, dynamics() | {"layers": [row | {"missing_gradients": 0} for row in layers]})
    seen = rows(path, "SELECT * FROM layers ORDER BY layer, expert")
    assert seen == [{"step": 3} | row | {"missing_gradients": 0} for row in layers]


def test_a_step_logged_again_is_replaced_and_the_rewind_is_an_event(path: Path):
    with DynamicsLogger(path) as logger:
        for step in (0, 10, 20, 10, 20):
            logger.log(step, dynamics(value=logger._last_step or 0))
    assert [(row["step"], row["expert_0_top_norm"]) for row in rows(path)] == [(0, 0), (10, 20), (20, 10)]
    (event,) = rows(path, "SELECT * FROM events")
    assert (event["code"], event["step"]) == ("rewind", 10)
    assert event["message"] == "step 10 came after step 20; 2 logged steps from step 10 on are replaced"


def test_a_rewind_deletes_all_rows_of_the_abandoned_steps(path: Path):
    layer = {"layer": 0, "expert": 0, "source": "merged"}
    with DynamicsLogger(path) as logger:
        for step in range(0, 620, 10):
            logger.log(step, dynamics(value=1.0) | {"layers": [layer, layer | {"source": "isolated"}]})
    with DynamicsLogger(path, resume="must") as logger:
        for step in (505, 515):  # with another frequency, no abandoned row may stay between these
            logger.log(step, dynamics(value=2.0) | {"layers": [layer]})
    seen = rows(path, "SELECT step, expert_0_top_norm AS norm FROM dynamics ORDER BY step")
    assert [row["step"] for row in seen] == [*range(0, 510, 10), 505, 515]
    assert [row["norm"] for row in seen[-3:]] == [1.0, 2.0, 2.0]
    assert rows(path, "SELECT step, source FROM layers WHERE step > 490 ORDER BY 1, 2") == [
        {"step": 500, "source": "isolated"},
        {"step": 500, "source": "merged"},
        {"step": 505, "source": "merged"},
        {"step": 515, "source": "merged"},
    ]
    assert codes(path) == ["rewind"]


def test_the_same_step_twice_keeps_the_later_row_and_records_an_event(path: Path):
    with DynamicsLogger(path) as logger:
        logger.log(10, dynamics())
        logger.log(10, dynamics(value=7.0))
    assert ([row["expert_0_top_norm"] for row in rows(path)], codes(path)) == ([7.0], ["repeated_step"])


def test_a_rewind_is_noticed_after_reopening_a_file(path: Path):
    for first in (0, 20):
        with DynamicsLogger(path) as logger:
            logger.log(first, dynamics())
            logger.log(first + 10, dynamics())
    assert codes(path) == []
    with DynamicsLogger(path) as logger:
        logger.log(20, dynamics(value=9.0))
    assert codes(path) == ["rewind"]
    assert [row["expert_0_top_norm"] for row in rows(path)] == [0.5, 0.5, 9.0]


SCALARS = [
    np.float32(1.5),
    np.float64(1.5),
    np.array(1.5),
    np.array([1.5]),
    torch.tensor(1.5),
    torch.tensor([1.5]).bfloat16(),
    torch.tensor(1.5, requires_grad=True) * 1,
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: f"{type(scalar).__name__} {scalar.dtype}")
def test_scalars_of_numpy_and_torch_are_stored_as_numbers(path: Path, scalar):
    with DynamicsLogger(path) as logger:
        logger.log(0, {"expert_gradients": {"expert_0": {"top_norm": scalar}}}, loss=scalar)
    (row,) = rows(path)
    assert (row["expert_0_top_norm"], row["loss"]) == (1.5, 1.5)


@pytest.mark.parametrize("step", [np.int64(7), np.int32(7), torch.tensor(7), 7.0])
def test_a_step_may_be_any_whole_number(path: Path, step):
    with DynamicsLogger(path) as logger:
        logger.log(step, dynamics() | {"nonfinite": np.int64(3)})
    (row,) = rows(path, "SELECT step, nonfinite, typeof(step) AS type FROM dynamics")
    assert row == {"step": 7, "nonfinite": 3, "type": "integer"}


@pytest.mark.parametrize("other", [1.0, None], ids=["all numbers", "with a missing one"])
def test_nan_becomes_null_and_is_counted(path: Path, other: float | None):
    norms = {"top_norm": math.nan, "bottom_norm": other, "middle_norm": math.inf}
    with DynamicsLogger(path) as logger:
        logger.log(0, {"expert_gradients": {"expert_0": norms}, "nonfinite": 4}, loss=math.nan)
        logger.log(1, {"expert_gradients": {"expert_0": norms | {"top_norm": 1.0}}})
    row, sound = rows(path)
    assert (row["expert_0_top_norm"], row["loss"], row["nonfinite"], row["nan_values"]) == (None, None, 4, 2)
    assert (sound["expert_0_bottom_norm"], sound["expert_0_middle_norm"], sound["nan_values"]) == (other, math.inf, 0)


def test_later_changes_of_logged_values_have_no_effect(path: Path):
    norm, loss, layer = np.array(1.0), torch.tensor(1.0), {"layer": 0, "expert": 0, "source": "merged"}
    layer["top_norm"] = torch.tensor(1.0)
    logged = {"expert_gradients": {"expert_0": {"top_norm": norm}}, "layers": [layer]}
    with DynamicsLogger(path, flush_seconds=1e9) as logger:
        logger.log(0, logged, loss=loss)
        norm += 1
        loss += 1
        layer["top_norm"] += 1
        layer["layer"] = logged["expert_gradients"]["expert_0"]["bottom_norm"] = 7
        logger.log(1, {"expert_gradients": {"expert_0": {"top_norm": norm}}}, loss=loss)
    assert [(row["expert_0_top_norm"], row["loss"]) for row in rows(path)] == [(1.0, 1.0), (2.0, 2.0)]
    assert [(row["layer"], row["top_norm"]) for row in rows(path, "SELECT * FROM layers")] == [(0, 1.0)]


def test_experts_that_appear_later_add_columns(path: Path):
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics(2))
        logger.log(1, dynamics(4))
    first, second = rows(path)
    assert (first["expert_3_top_norm"], second["expert_3_top_norm"]) == (None, 3.5)


def test_further_metrics_add_columns(path: Path):
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics(), validation_loss=3.5)
    with DynamicsLogger(path) as logger:
        logger.log(1, dynamics(), validation_loss=4.5)
    assert [row["validation_loss"] for row in rows(path)] == [3.5, 4.5]


@pytest.mark.parametrize("name", ["order", "group", "select", "values", "index", "limit"])
def test_a_metric_may_have_the_name_of_a_sql_keyword(path: Path, name: str):
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics(), **{name: 1.5})
    assert rows(path)[0][name] == 1.5


@pytest.mark.parametrize("name", ["Loss", "train/loss", "x; DROP TABLE dynamics", 'a"b', "", "1st", "é", "x" * 64])
def test_an_invalid_column_name_is_refused_once_and_the_row_is_kept(path: Path, name: str):
    with DynamicsLogger(path) as logger:
        with pytest.warns(RuntimeWarning, match="is not logged") as warned:
            log_steps(logger, **{name: 1.0})
        assert len(warned) == 1
    assert len(rows(path)) == 3
    assert codes(path) == ["refused_value"]


@pytest.mark.parametrize(
    "value",
    ["high", [1.0], {}, object(), 1j, torch.ones(2), np.ones(3), np.array(["a"])],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_not_a_number_is_refused_once_and_the_row_is_kept(path: Path, value: object):
    with DynamicsLogger(path) as logger:
        with pytest.warns(RuntimeWarning, match="'loss' is not logged") as warned:
            log_steps(logger, loss=value)
        assert len(warned) == 1
    assert [row["loss"] for row in rows(path)] == [None, None, None]
    assert codes(path) == ["refused_value"]


def test_a_row_that_the_file_cannot_hold_does_not_block_the_others(path: Path):
    unknown = {"layers": [{"layer": 0, "expert": 0, "source": "merged", "surprise": 1.0}]}
    logger = DynamicsLogger(path, flush_seconds=1e9)
    logger.log(0, dynamics())
    for step in (1, 2):
        logger.log(step, dynamics() | unknown)
    logger.log(2**70, dynamics())
    with pytest.warns(RuntimeWarning, match="is not logged") as warned:
        logger.close()
    assert len(warned) == 2
    assert [row["step"] for row in rows(path)] == [0, 1, 2]
    assert (codes(path), logger.dropped) == (["refused_row", "refused_row"], 1)


@pytest.mark.parametrize(("odd", "kept"), [(2**64, 2.0**64), (-(10**30), -1e30), (Fraction(1, 4), 0.25)])
def test_a_number_that_sqlite_has_no_type_for_is_kept_as_a_float(path: Path, odd, kept: float):
    with DynamicsLogger(path) as logger:
        for step in range(3):
            logger.log(step, {"expert_gradients": {"expert_0": {"top_norm": 1.0, "tokens": odd}}}, seen=odd)
    assert [(row["expert_0_tokens"], row["seen"]) for row in rows(path)] == [(kept, kept)] * 3
    assert codes(path) == []


@pytest.mark.filterwarnings("ignore:.*is not logged")
@pytest.mark.parametrize(
    ("logged", "metrics", "column", "kept"),
    [
        ({}, {"expert_0_top_norm": 99.0}, "expert_0_top_norm", 0.5),
        (
            {"divergence_scores": {"expert_1_divergence": 0.2}},
            {"expert_1_divergence": 77.0},
            "expert_1_divergence",
            0.2,
        ),
        ({"nonfinite": 3}, {"nonfinite": 4}, "nonfinite", 3),
        ({"expert_gradients": {"a": {"b_c": 1.0}, "a_b": {"c": 2.0}}}, {}, "a_b_c", 1.0),
        ({}, {"nan_values": 5.0}, "nan_values", 0),
    ],
)
def test_a_second_value_of_one_name_is_an_event_and_the_measured_one_stays(
    path: Path, logged: dict, metrics: dict, column: str, kept: float
):
    with DynamicsLogger(path) as logger:
        for step in range(3):
            logger.log(step, dynamics() | logged, loss=float(step), **metrics)
    assert [(row[column], row["loss"]) for row in rows(path)] == [(kept, 0.0), (kept, 1.0), (kept, 2.0)]
    (event,) = rows(path, "SELECT code, message FROM events")
    assert event["code"] == "refused_value"
    assert event["message"].startswith(f"{column!r} is not logged")
    assert logger.dropped == 0


def test_a_time_of_ones_own_takes_the_place_of_the_clock(path: Path):
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics(), wall_time=5.0)
    assert ([row["wall_time"] for row in rows(path)], codes(path)) == ([5.0], [])


@pytest.mark.parametrize("loss", [1.0, None], ids=["all numbers", "one is missing"])
def test_a_fraction_in_a_column_of_counts_is_kept(path: Path, loss: float | None):
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics() | {"nonfinite": 2.75}, loss=loss)
    assert (rows(path)[0]["nonfinite"], codes(path)) == (2.75, [])


@pytest.mark.filterwarnings("ignore:.*is not logged")
def test_a_number_that_is_no_integer_of_64_bits_is_refused_where_one_is_needed(path: Path):
    layer = {"layer": 0, "expert": 0, "source": "merged", "top_norm": 1.0, "nonfinite": 2.75}
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics() | {"layers": [layer]})
        logger.log_table("experts", [{"expert": 1, "seed": 2**64 - 1}])
        logger.event("x", "y", step=2**70)
    assert rows(path, "SELECT nonfinite, top_norm FROM layers") == [{"nonfinite": None, "top_norm": 1.0}]
    assert rows(path, "SELECT expert, seed FROM experts") == [{"expert": 1, "seed": None}]
    assert codes(path) == ["x", *["refused_value"] * 3]
    (run,), _ = read_files([path])
    assert (run.damage, run.experts.num_rows) == ((), 1)


@pytest.mark.filterwarnings("ignore:.*is not logged")
def test_two_rows_with_the_same_key_are_an_event(path: Path):
    layer = {"layer": 0, "expert": 0, "source": "merged"}
    doubled = [layer | {"top_norm": 1.0}, layer | {"top_norm": 2.0}]
    with DynamicsLogger(path) as logger:
        for step in range(2):
            logger.log(step, dynamics() | {"layers": doubled})
    (event,) = rows(path, "SELECT message FROM events")
    assert event["message"].endswith("two rows of `layers` have the same key, and the later one is kept")
    assert [row["top_norm"] for row in rows(path, "SELECT * FROM layers")] == [2.0, 2.0]


@pytest.mark.filterwarnings("ignore:.*is not logged")
def test_the_checksums_are_no_fact_of_a_user(path: Path):
    with DynamicsLogger(path) as logger:
        logger.log_run({"checksums": 5, "note": "kept"})
        logger.log(0, dynamics())
        logger.flush()
        assert rows(path, "SELECT key FROM run WHERE key IN ('checksums', 'note')") == [{"key": "note"}]
    assert codes(path) == ["refused_value"]


def test_a_fact_that_is_no_json_is_refused_by_name_and_the_others_are_kept(path: Path):
    circular: list[object] = []
    circular.append(circular)
    refused = {"circular": circular, ("a", 1): 2, "keys": {(1, 2): 3}, "huge": 10**5000, None: 1}
    with DynamicsLogger(path) as logger:
        with pytest.warns(RuntimeWarning, match="is not logged") as warned:
            logger.log_run({**refused, "note": "kept"})
        logger.log(0, dynamics())
    assert rows(path, "SELECT key, value FROM run WHERE key != 'checksums'") == [{"key": "note", "value": '"kept"'}]
    messages = [row["message"] for row in rows(path, "SELECT message FROM events")]
    assert [message.partition(" is not")[0] for message in messages] == [f"the fact {name!r}" for name in refused]
    assert (len(warned), logger.dropped) == (5, 0)


@pytest.mark.filterwarnings("ignore:.*is not logged")
def test_an_error_without_a_text_does_not_leave_log(path: Path):
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Odd:
        def __init__(self, error: type[Exception]) -> None:
            self.error = error

        def __float__(self) -> float:
            raise self.error

    class MuteValueError(Mute, ValueError): ...

    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics(), loss=Odd(MuteValueError))
        logger.log(1, dynamics(), loss=Odd(Mute))
    assert ([row["step"] for row in rows(path)], logger.dropped) == ([0], 1)


@pytest.mark.parametrize("seconds", [-1.0, math.nan])
def test_a_negative_interval_is_refused(path: Path, seconds: float):
    with pytest.raises(ConfigError, match="flush_seconds"):
        DynamicsLogger(path, flush_seconds=seconds)
    assert not path.exists()


def test_a_step_that_is_not_a_whole_number_is_refused(path: Path):
    with DynamicsLogger(path) as logger:
        for step in (0, 0.25, 0.5):
            logger.log(step, dynamics())
    assert ([row["step"] for row in rows(path)], logger.dropped) == ([0], 2)
    assert codes(path) == ["refused_value", "dropped"]  # an event for each reason, and the number of steps


def test_a_metric_uses_the_existing_column_in_another_case(path: Path):
    path.parent.mkdir(parents=True)
    execute(path, "CREATE TABLE dynamics (step INTEGER PRIMARY KEY, expert_0_top_norm REAL, Accuracy REAL)")
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics(), accuracy=0.5)
    assert (rows(path)[0]["Accuracy"], codes(path)) == (0.5, ["migrated"])


def test_a_large_record_among_many_small_ones_is_not_dropped(path: Path):
    histogram = [{"layer": 0, "expert": 0, "tier": "top", "bin": i, "count": 1} for i in range(5000)]
    with DynamicsLogger(path, flush_seconds=1e9) as logger:
        for step in range(300):
            logger.log(step, dynamics() | ({"histograms": histogram} if step % 100 == 99 else {}))
    assert (logger.dropped, len(rows(path))) == (0, 300)
    assert rows(path, "SELECT count(*) AS n FROM histograms") == [{"n": 15_000}]


def test_replace_deletes_the_earlier_rows_of_a_table(path: Path):
    with DynamicsLogger(path) as logger:
        logger.log_table("experts", [{"expert": i, "role": "clean"} for i in range(5)], replace=True)
        logger.log_table("experts", [{"expert": i, "role": "clean"} for i in range(3)], replace=True)
    assert len(rows(path, "SELECT * FROM experts")) == 3


def test_a_row_of_an_unknown_table_does_not_block_the_others(path: Path):
    logger = DynamicsLogger(path, flush_seconds=1e9)
    logger.log(0, dynamics())
    logger.log_table("nowhere", [{"x": 1}])
    logger.log(1, dynamics())
    with pytest.warns(RuntimeWarning, match="KeyError: 'nowhere'"):
        assert logger.flush()
    logger.close()
    assert [row["step"] for row in rows(path)] == [0, 1]
    assert codes(path) == ["refused_row"]


def test_scalars_beyond_sqlites_columns_go_to_the_table_scalars(path: Path):
    logged = dynamics(230)
    with DynamicsLogger(path) as logger:
        logger.log_run({"seed": 0})
        logger.log(0, logged, loss=1.5)
        logger.log(1, dynamics(230, value=2.0))
    expected = flat(logged)
    assert len(expected) > 2000
    wide, beside = rows(path)[0], rows(path, "SELECT name, value FROM scalars WHERE step = 0")
    kept = {name: value for name, value in wide.items() if name in expected} | {r["name"]: r["value"] for r in beside}
    assert (kept, wide["loss"], codes(path)) == (expected, 1.5, [])
    assert len(rows(path, "SELECT * FROM scalars WHERE step = 1")) == len(beside) > 0


def test_64_layers_of_16_experts_are_one_row_each(path: Path):
    names = [column.name for column in schema.LAYERS_COLUMNS if column.type == "REAL"]
    layers = [
        {"layer": i, "expert": e, "source": "merged", **dict.fromkeys(names, i + e / 16)}
        for i in range(64)
        for e in range(16)
    ]
    with DynamicsLogger(path, num_experts=16) as logger:
        for step in range(3):
            logger.log(step, dynamics(16) | {"layers": layers})
    assert (len(rows(path)), codes(path)) == (3, [])
    seen = rows(path, "SELECT * FROM layers WHERE step = 2 ORDER BY layer, expert")
    assert [{name: row[name] for name in layers[0]} for row in seen] == layers


def test_the_config_allows_no_more_experts_than_a_file_can_number():
    limits = [RunConfig.model_fields[name].metadata for name in ("num_experts", "control_experts")]
    most = sum(next(rule.le for rule in rules if hasattr(rule, "le")) for rules in limits)
    assert most <= 1 + MAX_EXPERT
    columns = [*schema.dynamics_columns(schema.wide_experts(most)), *schema.role_columns()]
    assert len(columns) < 2000 - 50  # SQLite's limit, and room for a user's own metrics


def test_facts_are_json_and_replace_earlier_ones(path: Path):
    facts = {"exit_state": "running", "config.data": None, "gpus": [1, 2], "where": Path("/x"), "note": "a'; --"}
    with DynamicsLogger(path) as logger:
        logger.log_run(facts)
        logger.log_run({"exit_state": "finished"})
    seen = {row["key"]: json.loads(row["value"]) for row in rows(path, "SELECT * FROM run WHERE key <> 'checksums'")}
    assert seen == facts | {"exit_state": "finished", "where": "/x"}


def test_the_schema_describes_every_table_and_column():
    text = schema.describe()
    for statement in schema.create_statements(2):
        table, body = statement.removeprefix("CREATE TABLE IF NOT EXISTS ").split(" (", 1)
        assert f"\n{table}" in text
        for name in (part.split()[0] for part in body.split(", PRIMARY KEY")[0].split(", ")):
            assert f"\n  {name} " in text


def test_every_column_has_a_unit_and_a_meaning():
    every = [*schema.dynamics_columns(3), *(column for table, _ in schema.TABLES.values() for column in table)]
    assert all(
        column.type in ("INTEGER", "REAL", "TEXT", "BLOB") and column.unit and column.meaning for column in every
    )


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "step", [math.nan, math.inf, None, "ten", [1], {}, torch.ones(2), Unprintable()], ids=lambda s: type(s).__name__
)
def test_a_step_that_is_not_a_number_is_counted_and_becomes_an_event(path: Path, step: object):
    with DynamicsLogger(path) as logger:
        logger.log(0, dynamics())
        with pytest.warns(RuntimeWarning, match="is not logged") as warned:
            [logger.log(step, dynamics()) for _ in range(3)]
        logger.log(1, dynamics())
    assert ([row["step"] for row in rows(path)], logger.dropped, len(warned)) == ([0, 1], 3, 1)
    assert codes(path) == ["refused_value", "dropped"]


@pytest.mark.parametrize(
    "malformed",
    [
        5,
        [1.0],
        "expert_gradients",
        np.ones(3),
        {"expert_gradients": None},
        {"expert_gradients": [1.0]},
        {"expert_gradients": {"expert_0": 1.0}},
        {"expert_gradients": {"expert_0": None}},
        {"expert_gradients": {}, "divergence_scores": None},
        {"expert_gradients": {}, "layers": None},
        {"expert_gradients": {}, "layers": [None]},
        {"expert_gradients": {}, "histograms": 3},
    ],
    ids=str,
)
def test_malformed_dynamics_are_counted_and_become_an_event(path: Path, malformed: object):
    with DynamicsLogger(path) as logger:
        with pytest.warns(RuntimeWarning, match="step 7 is not logged"):
            logger.log(7, malformed)
        logger.log(8, dynamics())
    assert ([row["step"] for row in rows(path)], logger.dropped) == ([8], 1)
    assert codes(path) == ["refused_value", "dropped"]


@pytest.mark.parametrize("odd", [{3: {4: 1.0}}, {None: {"top_norm": 1.0}}, {"expert_0": {"": 1.0}}, {}], ids=str)
def test_odd_names_and_empty_dicts_do_not_raise(path: Path, odd: dict):
    logger = DynamicsLogger(path)
    logger.log(0, {"expert_gradients": odd}, loss=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.close()
    assert [(row["step"], row["loss"]) for row in rows(path)] == [(0, 1.0)]
