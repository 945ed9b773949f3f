"""Readers on files that the real libraries wrote, and on files that are almost theirs."""

import contextlib
import gzip
import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic.errors import TrackerError
from prismatic.trackers.confined import read_confined
from prismatic.trackers.formats import read_tracked
from prismatic.trackers.readers.table import READERS
from tests.support.imported_runs import assert_is_what_was_logged, facts, imported, rows
from tests.support.tracker_logs import STEPS, by_lightning, by_trainer, logged

DATA = Path(__file__).with_name("data")
GIVEN = ("--facts", r"seed=_s(\d+)")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the store that MLflow 3.17 wrote, under a name that says nothing of its format."""
    path = tmp_path / "tracking.db"
    path.write_bytes(gzip.decompress((DATA / "mlflow.db.gz").read_bytes()))
    return path


def test_a_store_of_mlflow(store: Path, tmp_path: Path):
    path = imported(store, tmp_path, "--run", "moe_s2", *GIVEN)
    assert_is_what_was_logged(path, seed=2)
    known = facts(path)
    assert known["config.seed"] == 2
    assert (known["config.tracker_lr"], known["config.tracker_optimizer"]) == (0.1, "adamw")
    assert known["tracker_output_dir"] == "out/2"  # no option: replicas differ in it
    assert (known["imported_from"], known["clip_state"]) == ("mlflow", "unknown")
    assert rows(path)[0]["wall_time"] > 1.7e9


def test_a_run_of_mlflow_is_found_by_its_id_and_others_are_not_read(store: Path):
    everything = read_tracked(store)
    assert [run.name for run in everything] == ["moe_s1", "moe_s2"]  # and not the deleted one
    one, other = read_tracked(store, only=everything[0].id)
    assert {name: len(values) for name, values in one.metrics.items()} == dict.fromkeys(logged(0), 4) | {
        "broken": 1,
        "huge": 1,
    }
    assert not other.metrics
    assert one.group == "mixture"


def test_mlflow_stores_infinity_and_nan_in_its_own_way(store: Path):
    run, _ = read_tracked(store)
    assert run.metrics["huge"] == {0: float("inf")}
    assert run.metrics["broken"] == pytest.approx({0: float("nan")}, nan_ok=True)


def test_of_several_values_at_a_step_mlflows_latest_counts(store: Path):
    with closing(sqlite3.connect(store)) as db, db:
        # Logged in this order, and stamped with times in another one.
        db.execute("UPDATE metrics SET value = step, timestamp = 10 - step, step = 0 WHERE key = 'acc'")
    run = read_tracked(store)[0]
    assert run.metrics["acc"] == {0: 0.0}
    assert "3 values were logged again at the same step; the last of each counts" in run.notes


def test_a_store_of_mlflow_without_a_table_is_refused_with_what_it_lacks(store: Path):
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("ALTER TABLE metrics RENAME COLUMN is_nan TO broken")
    with pytest.raises(TrackerError, match=r"expected MLflow's table `metrics` with .*; it lacks is_nan"):
        read_tracked(store)


def test_mlflows_folder_of_files_is_refused_with_the_command_that_converts_it(tmp_path: Path):
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("name: Default")
    with pytest.raises(TrackerError, match="mlflow migrate-filestore --source"):
        read_tracked(tmp_path / "mlruns")


def test_runs_exported_from_neptune(tmp_path: Path):
    path = imported(DATA / "neptune", tmp_path, "--run", "moe_s1", *GIVEN)
    assert_is_what_was_logged(path, seed=1)
    known = facts(path)
    assert known["config.seed"] == 1
    assert (known["config.tracker_config_lr"], known["config.tracker_config_compiled"]) == (0.1, False)
    assert "someone" not in known.values()  # Neptune's own attributes are no options
    assert rows(path)[0]["wall_time"] == 1767323045.0


def test_an_exported_part_alone_is_recognized_by_its_columns(tmp_path: Path):
    (source,) = (DATA / "neptune").rglob("moe_s2*.parquet")
    (run,) = read_tracked(source)
    assert (run.name, run.group, run.id) == ("moe_s2", "team/mixture/mixture", "team/mixture/moe_s2")
    assert run.metrics["train/loss"] == {step: logged(step, 2)["train/loss"] for step in STEPS}


@pytest.mark.parametrize("steps", [[0.5, 1.0], [None, 1.0]])
def test_a_step_that_is_no_whole_number_is_named(tmp_path: Path, steps):
    columns = {"project_id": "p", "run_id": "r", "attribute_path": "loss", "attribute_type": "float_series"}
    table = pa.Table.from_pylist([{**columns, "step": step, "float_value": 2.0} for step in steps])
    pq.write_table(table, tmp_path / "r_part_0.parquet")
    (run,) = read_tracked(tmp_path)
    assert run.metrics == {"loss": {1: 2.0}}
    assert run.notes == ["a value of loss has no whole number as step"]


def trainer_state(path: Path, steps: list[int], **about: object) -> Path:
    """Write a file such as the Trainer writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    history = [{"step": step, "epoch": step / 10, **logged(step)} for step in steps]
    path.write_text(json.dumps({"global_step": steps[-1], "max_steps": 40, "log_history": history, **about}))
    return path


def test_the_last_checkpoint_of_each_output_folder_is_the_run(tmp_path: Path):
    for run in ("a_s1", "a_s2"):
        for count in (2, 4):
            trainer_state(tmp_path / run / f"checkpoint-{count}" / "trainer_state.json", STEPS[:count])
    found = read_tracked(tmp_path)
    assert [run.name for run in found] == ["a_s1", "a_s2"]
    assert all(list(run.metrics["train/loss"]) == STEPS for run in found)
    assert {run.planned_steps for run in found} == {40}
    assert any("norms after clipping" in note for note in found[0].notes)


def test_a_state_file_is_named_after_its_output_folder(tmp_path: Path):
    path = trainer_state(tmp_path / "moe" / "a_s1" / "checkpoint-2" / "trainer_state.json", STEPS)
    assert read_tracked(path)[0].name == "moe-a_s1"
    assert read_tracked(tmp_path / "moe" / "a_s1")[0].name == "moe-a_s1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as a state of the Trainer"),
        ("[" * 100_000, "cannot be read as a state of the Trainer"),
        ("[1]", "expected the Trainer's state, an object with the list log_history"),
        ('{"log_history": 3}', "expected the Trainer's state"),
    ],
)
def test_another_json_file_is_refused(tmp_path: Path, text, message):
    (tmp_path / "trainer_state.json").write_text(text)
    with pytest.raises(TrackerError, match=message):
        read_tracked(tmp_path / "trainer_state.json")


def lightning_version(folder: Path, hparams: str | None = "seed: 3\n") -> Path:
    folder.mkdir(parents=True)
    names = list(logged(0))
    lines = [",".join(["epoch", "step", *names]), *(f"0,{s}," + ",".join(map(str, logged(s).values())) for s in STEPS)]
    (folder / "metrics.csv").write_text("\n".join(lines))
    if hparams is not None:
        (folder / "hparams.yaml").write_text(hparams)
    return folder


def test_versions_of_lightnings_csv_logger_have_their_hyperparameters(tmp_path: Path):
    lightning_version(tmp_path / "logs" / "moe" / "version_0")
    lightning_version(tmp_path / "logs" / "moe" / "version_1", hparams=None)
    one, other = read_tracked(tmp_path / "logs")
    assert (one.name, one.config) == ("moe/version_0", {"seed": 3})
    assert (other.name, other.config) == ("moe/version_1", {})
    assert other.notes == ["there is no hparams.yaml beside metrics.csv, so no option of the training is known"]
    (alone,) = read_tracked(tmp_path / "logs" / "moe" / "version_0" / "metrics.csv")
    assert (alone.name, alone.tracker, alone.config) == ("moe-version_0", "lightning", {"seed": 3})
    (table,) = read_tracked(tmp_path / "logs" / "moe" / "version_1" / "metrics.csv")
    assert (table.name, table.tracker, table.config) == ("moe-version_1-metrics", "csv", {})


HOSTILE = """
lr: 0.1
made: !!python/object/apply:os.system ["touch {proof}"]
new: !!python/object/new:dict {{}}
one: &one [1, 2]
many: [*one, *one]
deep: {{a: {{b: 2}}}}
"""


def test_no_class_and_no_alias_of_a_yaml_file_is_followed(tmp_path: Path):
    version = lightning_version(tmp_path / "version_0", HOSTILE.format(proof=tmp_path / "proof"))
    (run,) = read_tracked(version)
    plain = {"lr": 0.1, "made": None, "new": None, "one": [1, 2], "many": [None, None], "deep": {"a": {"b": 2}}}
    assert run.config == plain
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("text", ["a: [", "{? [1] : 2}", "[" * 2000, "a: b: c", "\x00"])
def test_a_damaged_yaml_file_is_refused(tmp_path: Path, text):
    with pytest.raises(TrackerError, match=r"hparams.yaml: cannot be read as YAML"):
        read_tracked(lightning_version(tmp_path / "version_0", text))


def test_a_folder_of_trackio_holds_the_runs_of_all_its_projects(tmp_path: Path):
    for project in ("one", "two"):
        with closing(sqlite3.connect(tmp_path / f"{project}.db")) as db, db:
            db.execute("CREATE TABLE metrics (run_id TEXT, timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT)")
            rows = [(f"{project}-id", "", "mine", step, json.dumps(logged(step))) for step in STEPS]
            db.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?, ?)", rows)
    with closing(sqlite3.connect(tmp_path / "registry-x.db")) as db:
        db.execute("CREATE TABLE collections (name TEXT)")
    found = read_tracked(tmp_path, only="two-id")
    assert [(run.group, run.id, bool(run.metrics)) for run in found] == [
        ("one", "one-id", False),
        ("two", "two-id", True),
    ]


def test_a_folder_without_a_project_is_refused(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE t (name TEXT)")
    with pytest.raises(TrackerError, match="expected trackio's table `metrics`"):
        read_tracked(tmp_path)


def test_more_values_than_memory_takes_are_refused(store: Path, monkeypatch):
    monkeypatch.setattr("prismatic.trackers.tracked.MAX_VALUES", 10)
    with pytest.raises(TrackerError, match="run moe_s1: expected at most 10 values, found more"):
        read_tracked(store)


def test_a_table_of_another_kind_is_refused(tmp_path: Path):
    (tmp_path / "x.txt").write_text("a")
    with pytest.raises(TrackerError, match=f"expected a table: {', '.join(READERS)}"):
        read_tracked(tmp_path / "x.txt", "table")


@pytest.mark.parametrize("step", [10**30, -(10**30), 2**63])
def test_a_step_that_no_run_file_can_hold_is_left_out_and_named(tmp_path: Path, step):
    (run,) = read_tracked(trainer_state(tmp_path / "out" / "trainer_state.json", [step, 3]))
    assert run.metrics["acc"] == {3: 0.1}
    assert "a step is larger than a run file can hold, and was left out" in run.notes


@settings(max_examples=40)
@given(place=st.integers(0, 978_943), value=st.integers(0, 255))
def test_a_damaged_store_is_read_or_refused(tmp_path_factory, place, value):
    data = bytearray(gzip.decompress((DATA / "mlflow.db.gz").read_bytes()))
    data[place] = value
    path = tmp_path_factory.mktemp("damaged") / "x.db"
    path.write_bytes(data)
    with contextlib.suppress(TrackerError):
        read_tracked(path, "mlflow")
    path.unlink()


@pytest.mark.long
def test_a_damaged_export_is_read_or_refused(tmp_path: Path):
    (source,) = (DATA / "neptune").rglob("moe_s1*.parquet")
    whole, generator = source.read_bytes(), random.Random(0)
    for number in range(60):
        data = bytearray(whole)
        for _ in range(1 + number % 8):
            data[generator.randrange(len(data))] = generator.randrange(256)
        (tmp_path / "x.parquet").write_bytes(data)
        with contextlib.suppress(TrackerError):
            read_confined(tmp_path / "x.parquet")


@pytest.mark.long
def test_states_that_the_trainer_wrote(tmp_path: Path):
    path = imported(by_trainer(tmp_path / "out"), tmp_path, "--run", "moe_s1", *GIVEN)
    found = {row["step"]: row for row in rows(path)}
    assert list(found) == STEPS[1:]
    for step, row in found.items():
        assert row["expert_1_top_norm"] == logged(step, 1)["moe/expert.1/top"]
    known = facts(path)
    assert (known["config.seed"], known["planned_steps"], known["imported_from"]) == (1, 31, "huggingface")
    assert known["config.tracker_max_steps"] == 30


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # Lightning advises more workers
def test_versions_that_lightning_wrote(tmp_path: Path):
    path = imported(by_lightning(tmp_path / "logs"), tmp_path, "--run", "moe_s2/version_0", "--set", "seed={seed}")
    assert_is_what_was_logged(path, seed=2, rel=1e-6)  # Lightning keeps float32
    known = facts(path)
    assert (known["config.seed"], known["config.tracker_lr"]) == (2, 0.1)
    assert 2 in (known.get("config.tracker_model_layers"), known.get("config.tracker_again_layers"))
