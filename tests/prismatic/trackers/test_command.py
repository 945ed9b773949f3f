"""The command `prismatic import`: many runs at once, the report, and the walls around the process that reads."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from prismatic.cli import main
from prismatic.errors import ConfigError, TrackerError
from prismatic.sandbox.walls import layer
from prismatic.trackers.confined import read_confined
from prismatic.trackers.convert import convert
from prismatic.trackers.mapping import parse_mapping
from prismatic.trackers.tracked import TrackedRun
from tests.support.imported_runs import facts, rows
from tests.support.simulated_runs import simulated_run, write
from tests.support.tracker_logs import STEPS
from validation.files.sources import read_sources
from validation.judgement.judge import judge

WHOLE = {"metrics": {"e{i}": "expert_{i}_norm", "p{i}": "expert_{i}_routing_weight"}}


def state_of(run_file: Path, target: Path) -> Path:
    """Write the rows of a run as the Trainer keeps them."""
    rows_of = [{k: v for k, v in row.items() if v is not None} for row in rows(run_file)]
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps({"max_steps": 200, "log_history": rows_of, "train_batch_size": 8}))
    return target


def test_many_files_become_replicates_of_one_experiment(tmp_path: Path, capsys):
    for seed in (1, 2):
        run = write(simulated_run(seed=seed, steps=150), tmp_path / f"{seed}.db")
        state_of(run, tmp_path / f"moe_s{seed}" / "trainer_state.json")
    sources = sorted(map(str, tmp_path.glob("moe_s*/trainer_state.json")))
    assert main(["import", *sources, "--facts", r"seed=_s(\d+)", "--runs", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("note: norms count as L2 norms in loss / weight") == 1  # the second run is as the first
    assert f"prismatic check {tmp_path / 'runs'}" in printed
    judged = judge(*read_sources([tmp_path / "runs"]))
    (group,) = judged.verdict.groups
    assert {run.id for run in judged.runs} == {*group.runs}
    assert {run.seed for run in judged.runs} == {1, 2}
    assert {run.facts["clip_state"] for run in judged.runs} == {"unknown"}


def test_options_that_keep_runs_apart_are_named_and_can_be_ignored(tmp_path: Path, capsys):
    lines = [{"run": f"a_s{seed}", "step": 1, "e0": 1.0, "e1": 2.0} for seed in (1, 2)]
    (tmp_path / "map.toml").write_text('[metrics]\n"e{i}" = "expert_{i}_norm"\n')
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for version, seed in enumerate((1, 2)):
        folder = tmp_path / "logs" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,e0,e1\n1,1.0,2.0\n")
        (folder / "hparams.yaml").write_text(f"seed: {seed}\nlr: 0.1\npath: data/{seed}\n")
    given = [str(tmp_path / "logs"), "--map", str(tmp_path / "map.toml"), "--set", "seed={seed}", "--dry-run"]
    assert main(["import", *given]) == 0
    assert "The tracker's options path differ between these runs" in capsys.readouterr().out
    assert main(["import", *given, "--ignore", "path"]) == 0
    assert "differ between these runs" not in capsys.readouterr().out


def test_a_source_among_many_that_cannot_be_read_is_named_and_the_others_are_imported(tmp_path: Path, capsys):
    (tmp_path / "map.toml").write_text('[metrics]\n"e{i}" = "expert_{i}_norm"\n')
    (tmp_path / "good.csv").write_text("step,e0,e1\n1,1.0,2.0\n")
    (tmp_path / "bad.jsonl").write_text("{")
    sources = [str(tmp_path / "bad.jsonl"), str(tmp_path / "good.csv"), str(tmp_path / "none.csv")]
    code = main(["import", *sources, "--map", str(tmp_path / "map.toml"), "--runs", str(tmp_path / "runs")])
    assert code == 0
    skipped = capsys.readouterr().err
    assert "bad.jsonl: cannot be read" in skipped
    assert "none.csv: no such file or folder" in skipped
    assert len([*(tmp_path / "runs").rglob("dynamics.db")]) == 1


def test_a_run_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path, capsys):
    (tmp_path / "t.csv").write_text("run,step,e0\na,1,1.0\nb,1,1.0\n")
    assert main(["import", str(tmp_path / "t.csv"), "--run", "c"]) == 2
    assert "there is no run 'c'; the runs are: a, b" in capsys.readouterr().err


def tracked(metrics: dict[str, float], **about) -> TrackedRun:
    run = TrackedRun("mine", "test", **about)
    for step in STEPS:
        run.add(step, {name: value + step for name, value in metrics.items()})
    return run


def test_norms_of_whole_experts_alone_are_imported_and_judged_for_what_they_are(tmp_path: Path):
    run = tracked({"e0": 1.0, "e1": 2.0, "p0": 0.5, "p1": 0.5})
    report = convert(run, parse_mapping(WHOLE), tmp_path / "x.db")
    first = rows(tmp_path / "x.db")[0]
    assert (first["expert_0_clean_norm"], first["expert_1_perturbed_norm"]) == (1.0, 2.0)
    assert "there are only norms of whole experts: claims that compare tiers cannot be judged" in report.notes
    judged = judge(*read_sources([tmp_path / "x.db"]))
    assert len(judged.runs) == 1
    assert {claim.status for claim in judged.verdict.controlled.claims} <= {"not_measured", "inconclusive", "invalid"}


def test_a_mixture_of_peers_has_no_clean_expert(tmp_path: Path):
    settings = {**WHOLE, "roles": ["peer", "peer"], "clip_state": "after"}
    report = convert(tracked({"e0": 1.0, "e1": 2.0}), parse_mapping(settings), tmp_path / "x.db")
    assert [row["role"] for row in rows(tmp_path / "x.db", "SELECT * FROM experts")] == ["peer", "peer"]
    assert facts(tmp_path / "x.db")["clip_state"] == "after"
    assert any("they are norms of clipped gradients" in note for note in report.notes)
    assert not any("gives no roles" in note for note in report.notes)


@pytest.mark.parametrize("roles", [["clean", "peer"], ["peer", "clean"], ["peer"]])
def test_peers_and_a_clean_expert_do_not_go_together(tmp_path: Path, roles):
    with pytest.raises(ConfigError, match="does not fit 2 experts; the first must be clean, and no other, or all peer"):
        convert(tracked({"e0": 1.0, "e1": 2.0}), parse_mapping({**WHOLE, "roles": roles}), None)


@pytest.mark.parametrize(
    ("config", "given", "note"),
    [
        ({}, {}, "no seed is known, by which runs become replicates; --set 'seed=1' or --facts"),
        ({"seed": 4}, {}, "no seed is known, by which runs become replicates; --set 'seed={seed}'"),
        ({"train": {"seed": 4}}, {}, "no seed is known, by which runs become replicates; --set 'seed={train.seed}'"),
        ({"config/seed": 4}, {"seed": 5}, "the tracker's config says config/seed = 4, and seed = 5 counts"),
    ],
)
def test_what_is_missing_or_contradicts_is_said(config, given, note):
    report = convert(tracked({"e0": 1.0, "e1": 2.0}, config=config), parse_mapping({**WHOLE, "options": given}), None)
    assert any(each.startswith(note) for each in report.notes)


def test_the_plan_of_a_tracker_is_kept_unless_the_map_has_another(tmp_path: Path):
    for settings, planned in ((WHOLE, 40), ({**WHOLE, "planned_steps": 50}, 50)):
        convert(tracked({"e0": 1.0}, planned_steps=40), parse_mapping(settings), tmp_path / f"{planned}.db")
        assert facts(tmp_path / f"{planned}.db")["planned_steps"] == planned


def test_the_process_that_reads_sees_no_other_file(tmp_path: Path):
    if not layer().landlock:
        pytest.skip("this system has no Landlock")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "other.csv").write_text("step,e0\n1,1.0\n")
    (tmp_path / "logs" / "version_0").mkdir(parents=True)
    (tmp_path / "logs" / "version_0" / "metrics.csv").symlink_to(tmp_path / "secret" / "other.csv")
    with pytest.raises(TrackerError, match="Permission denied"):
        read_confined(tmp_path / "logs")


def test_a_process_that_ends_is_an_error_of_the_file(tmp_path: Path, monkeypatch):
    (tmp_path / "worker.py").write_text("import sys\nsys.stdin.readline()\nprint('[1]')\n")
    monkeypatch.setattr("prismatic.trackers.confined.WORKER", tmp_path / "worker.py")
    (tmp_path / "t.csv").write_text("step,e0\n1,1.0\n")
    with pytest.raises(TrackerError, match=r"t.csv: the process that reads it ended, or took more than 900 s"):
        read_confined(tmp_path / "t.csv")


def test_an_endless_table_of_a_hostile_store_is_not_read(tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "x.db")) as db, db:
        endless = "WITH RECURSIVE t(run_uuid, key, value) AS (SELECT 'a', 'b', 1 UNION ALL SELECT * FROM t)"
        db.execute(f"CREATE VIEW params AS {endless} SELECT * FROM t")
        db.execute("CREATE TABLE runs (run_uuid, name, experiment_id, lifecycle_stage)")
    with pytest.raises(TrackerError, match="expected trackio's table"):
        read_confined(tmp_path / "x.db")
    with pytest.raises(TrackerError, match=r"table `metrics` with .*; it lacks is_nan"):
        read_confined(tmp_path / "x.db", "mlflow")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(TrackerError, match=r"t.csv: it is no regular file"):
        read_confined(tmp_path / "t.csv")
