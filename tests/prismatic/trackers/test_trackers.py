"""Importing runs: files of the real trackers (where installed), tables, maps, and files that are refused."""

import json
import math
import re
import sqlite3
import struct
import sys
import tomllib
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismatic.cli import main
from prismatic.contract.schema import TIERS
from prismatic.errors import ConfigError, LoggerError, TrackerError
from prismatic.trackers.convert import convert
from prismatic.trackers.formats import read_tracked
from prismatic.trackers.mapping import NameMap, load_mapping, parse_mapping
from prismatic.trackers.readers.wandb import BLOCK, HEADER, records
from prismatic.trackers.tracked import TrackedRun, as_number, flatten
from tests.support.imported_runs import MAP, assert_is_what_was_logged, facts, imported, rows
from tests.support.simulated_runs import simulated_run, write
from tests.support.tracker_logs import STEPS, logged
from validation.files.sources import read_sources
from validation.judgement.judge import judge

ROOT = Path(__file__).parents[3]


def test_tensorboard_event_files(tmp_path: Path, capsys):
    SummaryWriter = pytest.importorskip("torch.utils.tensorboard", reason="TensorBoard is not installed").SummaryWriter
    with SummaryWriter(str(tmp_path / "logs" / "train")) as writer:
        for step in STEPS:
            for name, value in logged(step).items():
                writer.add_scalar(name, value, step, new_style=name == "train/loss")
            writer.add_text("notes", "no metric", step)
        for step in range(5):
            writer.add_scalar("train/loss", 9.0, step + 1)
    with SummaryWriter(str(tmp_path / "logs" / "eval")) as writer:
        writer.add_scalar("acc", 0.5, 0)
    path = imported(tmp_path / "logs", tmp_path, "--set", "seed=3")
    assert_is_what_was_logged(path, rel=1e-6)  # TensorBoard keeps float32
    assert path.parent.name == "tensorboard-train"
    assert facts(path)["config.seed"] == 3
    assert rows(path)[0]["wall_time"] > 1e9
    printed = capsys.readouterr()
    assert "expert_{i}_{tier}_norm <- moe/expert.{i}/{tier}: moe/expert.0/bottom, moe/expert.0/middle" in printed.out
    assert "not mapped: acc" in printed.out
    assert "skipped: 5 steps without any metric of an expert" in printed.out
    assert "skipped: run eval: the map finds no norm of an expert's gradient" in printed.err


def test_metrics_of_our_mirror_need_no_map_and_get_the_same_verdict(tmp_path: Path):
    SummaryWriter = pytest.importorskip("torch.utils.tensorboard", reason="TensorBoard is not installed").SummaryWriter
    from prismatic import DynamicsLogger

    original = write(simulated_run(divergence=0.6, awakening=1.5, sd=0.05, steps=150), tmp_path / "original.db")
    ours = [name for name, value in rows(original)[0].items() if name.startswith("expert_") and value is not None]
    with SummaryWriter(str(tmp_path / "logs")) as board, DynamicsLogger(tmp_path / "x.db", mirror=board) as logger:
        for row in rows(original):
            logger.log(row["step"], {"expert_gradients": {}}, **{name: row[name] for name in ours})
    assert main(["import", str(tmp_path / "logs"), "--runs", str(tmp_path / "runs")]) == 0
    back = tmp_path / "runs" / "tensorboard-logs" / "dynamics.db"
    for one, other in zip(rows(original), rows(back), strict=True):
        assert {n: one[n] for n in ours} == pytest.approx({n: other[n] for n in ours}, rel=1e-6)
    statuses = [
        [(c.name, c.status) for c in judge(*read_sources([path])).verdict.controlled.claims]
        for path in (original, back)
    ]
    assert statuses[0] == statuses[1]


def documented_trackio(path: Path, *, run_id: bool = True) -> Path:
    """Write a project by trackio's documented storage schema."""
    with closing(sqlite3.connect(path)) as db, db:
        ids = "id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, " if run_id else "id INTEGER PRIMARY KEY, "
        db.execute(f"CREATE TABLE metrics ({ids}timestamp TEXT, run_name TEXT, step INTEGER, metrics TEXT)")
        db.execute(f"CREATE TABLE configs ({ids}run_name TEXT, config TEXT, created_at TEXT)")
        key = ("a",) if run_id else ()
        marks = "?, " if run_id else ""
        for step in STEPS:
            row = (None, *key, "2026-01-02T03:04:05+00:00", "mine", step, json.dumps({**logged(step), "bad": "NaN"}))
            db.execute(f"INSERT INTO metrics VALUES (?, {marks}?, ?, ?, ?)", row)
        config = json.dumps({"seed": 7, "lr": 0.1, "_Created": "now", "deep": {"a": 1}})
        db.execute(f"INSERT INTO configs VALUES (?, {marks}?, ?, ?)", (None, *key, "mine", config, ""))
    return path


@pytest.mark.parametrize("run_id", [True, False], ids=["with ids", "earlier version"])
def test_trackio_projects_by_the_documented_schema(tmp_path: Path, run_id):
    path = imported(documented_trackio(tmp_path / "p.db", run_id=run_id), tmp_path)
    assert_is_what_was_logged(path)
    recorded = facts(path)
    assert (recorded["config.seed"], recorded["config.tracker_lr"], recorded["config.tracker_deep_a"]) == (7, 0.1, 1)
    assert not [name for name in recorded if "created" in name]
    assert rows(path)[0]["wall_time"] == 1767323045.0


def test_trackio_projects_by_trackio(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    import trackio

    trackio.init(project="p", name="mine", config={"seed": 7})
    for step in STEPS:
        trackio.log(logged(step), step=step)
    trackio.finish()
    (source,) = Path(trackio.utils.TRACKIO_DIR).glob("p.db")
    path = imported(source, tmp_path, "--run", "mine")
    assert_is_what_was_logged(path)
    assert facts(path)["config.seed"] == 7


def test_wandb_offline_runs_by_wandb(tmp_path: Path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="p", mode="offline", dir=str(tmp_path), name="mine", config={"seed": 7}) as run:
        for step in STEPS:
            run.log({**logged(step), "nested": {"a": 1}, "long": "x" * 50_000}, step=step)  # over a block's end
    wandb.teardown()  # without this, W&B's own process may still hold the last block
    path = imported(tmp_path / "wandb", tmp_path)
    assert_is_what_was_logged(path)
    assert facts(path)["config.seed"] == 7
    (source,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    source.write_bytes(source.read_bytes()[:-30_000])
    (cut,) = read_tracked(source)
    assert "was read up to a damaged or incomplete record" in cut.notes[0]
    assert 0 < len(cut.metrics["train/loss"]) < len(STEPS)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables(tmp_path: Path, kind):
    source = tmp_path / f"history.{kind}"
    table = [{"_step": step, "run_name": "mine", "_timestamp": 5.0, "note": "text", **logged(step)} for step in STEPS]
    if kind == "csv":
        lines = [",".join(table[0]), *(",".join(map(str, row.values())) for row in table)]
        source.write_text("\n".join(lines))
    elif kind == "jsonl":
        source.write_text("\n\n".join(map(json.dumps, table)))
    else:
        pq.write_table(pa.Table.from_pylist(table), source)
    path = imported(source, tmp_path, "--set", "seed=1")
    assert_is_what_was_logged(path)
    assert rows(path)[0]["wall_time"] == 5.0


@pytest.mark.long
def test_metrics_of_every_version_of_a_csv_logger_are_runs_of_their_own(tmp_path: Path):
    from lightning.pytorch.loggers import CSVLogger

    for _ in range(2):
        logger = CSVLogger(tmp_path / "logs", name="moe")
        for step in STEPS:
            logger.log_metrics(logged(step), step=step)
        logger.save()
    sources = sorted((tmp_path / "logs").rglob("metrics.csv"))
    for source in sources:
        (tmp_path / "map.toml").write_text(MAP)
        options = ["--map", str(tmp_path / "map.toml"), "--runs", str(tmp_path / "runs"), "--set", "seed=1"]
        assert main(["import", str(source), *options]) == 0
    found = sorted(path.parent.name for path in (tmp_path / "runs").rglob("dynamics.db"))
    assert found == ["csv-moe-version_0-metrics", "csv-moe-version_1-metrics"]


def framed(parts: list[bytes]) -> bytes:
    """Return records in LevelDB's log format, by its description."""
    out = bytearray(HEADER)
    for record in parts:
        first, rest = True, record
        while first or rest:
            left = BLOCK - len(out) % BLOCK
            if left < 7:
                out += bytes(left)
                left = BLOCK
            piece, rest = rest[: left - 7], rest[left - 7 :]
            kind = (1 if not rest else 2) if first else (4 if not rest else 3)
            out += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
            first = False
    return bytes(out)


SIZES = st.integers(0, 40) | st.integers(BLOCK - 30, BLOCK + 30) | st.just(3 * BLOCK)


@given(sizes=st.lists(SIZES, max_size=6), seed=st.integers(0, 9))
def test_records_of_any_length_come_back(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.bytes(size) for size in sizes]
    assert list(records(framed(parts))) == parts


@given(sizes=st.lists(SIZES, min_size=1, max_size=3), share=st.floats(0, 1))
def test_a_log_that_ends_within_a_record_is_refused_there(sizes, share):
    parts = [b"x" * size for size in sizes]
    data = framed(parts)
    cut = data[: len(HEADER) + round(share * (len(data) - len(HEADER)))]
    whole = [number for number in range(len(parts) + 1) if cut.rstrip(b"\0") == framed(parts[:number]).rstrip(b"\0")]
    if whole and len(cut) >= len(framed(parts[: whole[-1]])):
        assert list(records(cut)) == parts[: whole[-1]]
    else:
        with pytest.raises(ValueError, match=r"at byte|the rest is missing"):
            list(records(cut))


@given(place=st.integers(0, 297), bit=st.integers(0, 7))
def test_a_record_with_a_flipped_bit_is_refused(place, bit):
    parts = [bytes([number]) * 90 for number in range(3)]
    data = bytearray(framed(parts))
    data[place] ^= 1 << bit
    found = []
    try:
        for record in records(bytes(data)):
            found.append(record)
    except ValueError:
        pass
    assert found == parts[: len(found)]
    assert len(found) < 3


def run_of(metrics: dict[str, float], **about) -> TrackedRun:
    run = TrackedRun("mine", "test", **about)
    for step in STEPS:
        run.add(step, {name: value + step for name, value in metrics.items()})
    return run


def mapped(**metrics: str) -> NameMap:
    return parse_mapping({"metrics": metrics})


def test_layers_become_rows_and_their_means_the_wide_table(tmp_path: Path):
    names = {f"l{layer}/e{i}/{tier}": 1.0 + layer + i for layer in range(2) for i in range(2) for tier in TIERS}
    mapping = parse_mapping(
        {
            "metrics": {
                "l{layer}/e{i}/{tier}": "layer_{layer}_expert_{i}_{tier}_norm",
                "re:cos(?P<layer>.)(?P<i>.)": "layer_{layer}_expert_{i}_gradient_cosine",
            }
        }
    )
    convert(run_of({**names, "cos01": 0.5, "cos11": 0.25}), mapping, tmp_path / "x.db")
    assert len(rows(tmp_path / "x.db", "SELECT * FROM layers")) == len(STEPS) * 4
    first = rows(tmp_path / "x.db")[0]
    assert (first["expert_0_top_norm"], first["expert_1_bottom_norm"]) == (1.5, 2.5)
    assert first["expert_1_direction"] == 1 - 0.375
    (run,) = judge(*read_sources([tmp_path / "x.db"])).runs
    assert len(run.layers) == 2


def test_experts_are_put_in_the_order_of_the_map(tmp_path: Path):
    metrics = {f"e{i}/{tier}": float(i) for i in (1, 2, 3, 4) for tier in TIERS} | {f"e{i}/norm": 9.0 for i in (1, 3)}
    mapping = parse_mapping(
        {
            "experts": [3, 1, 2],
            "roles": ["clean", "perturbed", "control"],
            "metrics": {"e{i}/{tier}": "expert_{i}_{tier}_norm", "e{i}/norm": "expert_{i}_norm"},
        }
    )
    report = convert(run_of(metrics), mapping, tmp_path / "x.db")
    first = rows(tmp_path / "x.db")[0]
    assert [first[f"expert_{i}_top_norm"] for i in range(3)] == [3.0, 1.0, 2.0]
    assert (first["expert_0_clean_norm"], first["expert_1_perturbed_norm"]) == (9.0, 9.0)
    assert report.unmapped == [f"e4/{tier}" for tier in sorted(TIERS)]
    assert [row["role"] for row in rows(tmp_path / "x.db", "SELECT * FROM experts")] == [
        "clean",
        "perturbed",
        "control",
    ]


def test_a_metric_of_the_map_counts_the_steps(tmp_path: Path):
    run = run_of({f"e{i}/{tier}": 1.0 for i in range(2) for tier in TIERS})
    run.metrics["trainer/step"] = {step: 100.0 * step for step in STEPS[1:]}
    mapping = parse_mapping({"step": "trainer/step", "metrics": {"e{i}/{tier}": "expert_{i}_{tier}_norm"}})
    convert(run, mapping, tmp_path / "x.db")
    assert [row["step"] for row in rows(tmp_path / "x.db")] == [1000, 2000, 3000]


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys):
    source = documented_trackio(tmp_path / "p.db")
    (tmp_path / "map.toml").write_text(MAP)
    code = main(
        ["import", str(source), "--map", str(tmp_path / "map.toml"), "--runs", str(tmp_path / "runs"), "--dry-run"]
    )
    assert code == 0
    assert "trackio run mine: 4 steps with 2 experts" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_an_earlier_import_is_kept_unless_overwrite_is_set(tmp_path: Path):
    run = run_of({f"expert_{i}_{tier}_norm": 1.0 for i in range(2) for tier in TIERS})
    for _ in range(2):
        convert(run, load_mapping(None), tmp_path / "x.db", overwrite=True)
    with pytest.raises(LoggerError):
        convert(run, load_mapping(None), tmp_path / "x.db")
    assert len(rows(tmp_path / "x.db")) == len(STEPS)


def test_an_evaluation_that_is_logged_late_leaves_the_time_of_its_step():
    run = TrackedRun("mine", "test")
    for step in range(3):
        run.add(step, {"train/loss": 1.0}, wall_time=100.0 + step)
    run.add(0, {"eval/loss": 1.0}, wall_time=500.0)  # by a process beside the training
    assert run.wall_times == {0: 100.0, 1: 101.0, 2: 102.0}


def test_more_rows_than_fit_into_memory_are_all_imported(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("prismatic.runfile.writer.MAX_WAITING", 2000)
    monkeypatch.setattr("prismatic.trackers.convert.ROWS_AT_ONCE", 100)
    run = TrackedRun("mine", "test")
    for step in range(1000):
        run.add(step, {f"expert_{i}_{tier}_norm": 1.0 for i in range(2) for tier in TIERS})
    convert(run, load_mapping(None), tmp_path / "x.db")
    assert len(rows(tmp_path / "x.db")) == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics = 3", "there is no [metrics]"),
        ("nonsense = 1\n[metrics]\na = 'loss'", "unknown setting 'nonsense'; the settings are step, experts"),
        ("[metrics]\na = 'los'", "'a' = 'los': not one of our columns: "),
        ("[metrics]\na = 3", "expected the name of one of our columns, in quotes"),
        ("[metrics]\n'e{i}' = 'expert_{i}_left_norm'", "not one of our columns"),
        ("[metrics]\n'e{i}' = 'expert_{i}_{tier}_norm'", "the left side lacks {tier}; placeholders are"),
        ("[metrics]\n'e{what}' = 'loss'", "the left side cannot be read ('what')"),
        ("[metrics]\n'e{' = 'loss'", "the left side cannot be read"),
        ("[metrics]\n're:(' = 'loss'", "the left side cannot be read"),
        ("[metrics]\na = 'expert_0_direction'", "not one of our columns"),
        ("step = 3\n[metrics]\na = 'loss'", "step = 3: expected the name of a metric"),
        ("experts = ['a']\n[metrics]\na = 'loss'", "expected a list, different numbers from 0"),
        ("experts = [1, 1]\n[metrics]\na = 'loss'", "expected different numbers"),
        ("roles = ['clean', 'best']\n[metrics]\na = 'loss'", "one of clean, perturbed, control"),
        ("mixture = 'soft'\n[metrics]\na = 'loss'", "mixture = 'soft': expected one of parameters"),
        ("planned_steps = 'many'\n[metrics]\na = 'loss'", "expected a whole number of steps"),
        ("[metrics]\na = 'loss'\n[options]\n'Big Name' = 1", "expected a name of a-z"),
        ("[metrics]\na = 'loss'\n[options]\nseed = [1]", "expected a name of a-z, 0-9 and _, and a number or a text"),
        ("not toml", "cannot be read as TOML"),
    ],
)
def test_an_invalid_map_is_refused_with_what_is_allowed(tmp_path: Path, text, message):
    path = tmp_path / "map.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_mapping(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_documented_map_is_valid():
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "trackers.md").read_text(), re.DOTALL)
    mapping = parse_mapping(tomllib.loads(text))
    names = ["moe/expert_2/top_grad", "router/share_1", "block3.e3.cos", "train/loss", "moe/expert_9/top_grad", "x"]
    found = [mapping.target_of(name) for name in names]
    assert [match and str(match[1]) for match in found] == [
        "expert_1_top_norm",
        "expert_0_routing_weight",
        "layer_3_expert_2_gradient_cosine",
        "loss",
        None,
        None,
    ]


NORMS = {f"e{i}/{tier}": 1.0 for i in range(2) for tier in TIERS}


@pytest.mark.parametrize(
    ("settings", "metrics", "error", "message"),
    [
        ({}, {"acc": 1.0}, TrackerError, "run mine: the map finds no norm of an expert's gradient"),
        ({}, {**NORMS, "E0/top": 1.0}, ConfigError, "'E0/top' and 'e0/top' both map to expert_0_top_norm"),
        ({"roles": ["clean"]}, NORMS, ConfigError, "does not fit 2 experts"),
        ({"step": "there"}, NORMS, ConfigError, "run mine has no such metric; it has e0/bottom, e0/middle"),
        ({"options": {"seed": "{lr}"}}, NORMS, ConfigError, "the tracker's config has no such name; it has deep.a"),
    ],
    ids=["no norms", "twice", "roles", "step", "option"],
)
def test_a_run_that_does_not_fit_the_map_is_refused_with_what_it_has(tmp_path: Path, settings, metrics, error, message):
    lines = {"e{i}/{tier}": "expert_{i}_{tier}_norm", "E{i}/{tier}": "expert_{i}_{tier}_norm"}
    with pytest.raises(error) as caught:
        convert(
            run_of(metrics, config={"deep": {"a": 1}}), parse_mapping({"metrics": lines, **settings}), tmp_path / "x.db"
        )
    assert message in str(caught.value)
    assert not (tmp_path / "x.db").exists()


def test_options_of_the_tracker_are_never_read_as_ours(tmp_path: Path):
    run = run_of(NORMS, config={"merge": "example", "Routing": "frozen", "positive_control": 2.0})
    convert(run, mapped(**{"e{i}/{tier}": "expert_{i}_{tier}_norm"}), tmp_path / "x.db")
    (read,) = judge(*read_sources([tmp_path / "x.db"])).runs
    assert read.config == {"tracker_merge": "example", "tracker_routing": "frozen", "tracker_positive_control": 2.0}
    assert read.mixture is None
    assert not read.is_positive_control


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.db", b"", "cannot be read as a database of MLflow or trackio (file is not a database)"),
        ("x.db", b"SQLite format 3\0" + b"\xff" * 5000, "cannot be read as a database of MLflow or trackio"),
        ("x.csv", b"step,a\n\xff\xfe,1", "cannot be read as .csv"),
        ("x.jsonl", b"[1]", "expected an object in each line"),
        ("x.jsonl", b"{", "cannot be read as .jsonl"),
        ("x.parquet", b"PAR1", "cannot be read as .parquet"),
        ("x.txt", b"", "expected a log folder of TensorBoard, W&B, trackio"),
    ],
)
def test_a_file_of_another_format_is_refused_with_what_was_found(tmp_path: Path, name, content, message, capsys):
    (tmp_path / name).write_bytes(content)
    assert main(["import", str(tmp_path / name), "--runs", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err


def test_a_view_in_place_of_the_table_is_not_read(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "x.db")) as db, db:
        endless = "WITH RECURSIVE t(run_name, step, metrics) AS (SELECT 'a', 1, '{}' UNION ALL SELECT * FROM t)"
        db.execute(f"CREATE VIEW metrics AS {endless} SELECT * FROM t")
    with pytest.raises(TrackerError, match="found no such table"):
        read_tracked(tmp_path / "x.db")


def test_a_missing_library_is_named_with_the_command_that_installs_it(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if "site-packages" not in folder])
    (tmp_path / "run-x.wandb").write_bytes(HEADER)
    assert main(["import", str(tmp_path)]) == 2
    assert 'pip install "prismatic-dynamics[trackers]"' in capsys.readouterr().err


def test_a_runs_name_never_leaves_the_folder_of_runs(tmp_path: Path):
    lines = [{"run": name, "step": 0, **NORMS} for name in ("../../etc", "a b", "a/b", "..")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "map.toml").write_text('[metrics]\n"e{i}/{tier}" = "expert_{i}_{tier}_norm"')
    code = main(
        ["import", str(tmp_path / "t.jsonl"), "--map", str(tmp_path / "map.toml"), "--runs", str(tmp_path / "runs")]
    )
    assert code == 0
    names = {path.parent.relative_to(tmp_path / "runs").as_posix() for path in tmp_path.rglob("dynamics.db")}
    assert names == {"jsonl-..-..-etc", "jsonl-a-b", "jsonl-a-b.2", "jsonl"}


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3.0), (True, None), (None, None), ("x", None), ("Infinity", math.inf), (10**400, math.inf), ([1], None)],
)
def test_only_numbers_are_metrics(value, number):
    assert as_number(value) == number


def test_a_nested_config_becomes_flat_without_the_trackers_own_names():
    assert dict(flatten({"a": {"b": 1, "_c": 2}, "d": [1], "e": None, "f": "x"})) == {"a.b": 1, "f": "x"}
