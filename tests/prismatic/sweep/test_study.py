"""`prismatic study`: its file and plan, the user's own programs, refusals, and the same report after interruptions."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from prismatic.cli import main
from prismatic.contract.study import Study
from prismatic.contract.study_plan import read_plan
from prismatic.errors import ConfigError, LoggerError, StudyError
from prismatic.runfile.logger import DynamicsLogger
from prismatic.sweep.cost import finished_cost
from prismatic.sweep.design import design_lines, smallest_effects
from prismatic.sweep.engines import OnSlurm, Task
from prismatic.sweep.study import load_study, plan_study, require_own_folder, require_registered, write_config
from prismatic.train.programs.own_command import CommandConfig
from prismatic.train.trainers import load, parse, train_any
from tests.support.run_file import facts

SCALE = "perturbation_scale"
TINY = {"num_experts": 4, "control_experts": 3, "merge": "example", "hidden_size": 16, "num_layers": 1, "num_heads": 2}
TINY |= {"sequence_length": 16, "batch_size": 2, "steps": 60, "warmup_steps": 0, "log_freq": 5, "probe_freq": 5}
TINY |= {"weight_freq": 0}
STUDY = {
    "name": "tiny",
    "question": "do experts awaken?",
    "options": TINY,
    "vary": {"perturbation_scale": [0, 1]},
    "seeds": "0..5",
    "hypotheses": [
        {"claim": "awakening", "expect": "supported"},
        {
            "effect": "held_out_loss",
            "expect": "lower",
            "of": {"perturbation_scale": 1},
            "against": {"perturbation_scale": 0},
        },
    ],
}
PROGRAM = """
import sys, torch
from prismatic import DynamicsLoggerCallback
from tests.support.small_layers import layer

path, seed, gain = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
torch.manual_seed(seed)
model = layer()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
callback = DynamicsLoggerCallback(path, log_freq=1)
callback.attach(model, optimizer, planned_steps=12)
for _ in range(12):
    optimizer.zero_grad()
    model(gain * torch.randn(4, 3, 8)).square().mean().backward()
    optimizer.step()
callback.detach(held_out_loss=float(seed))
"""


@pytest.fixture
def study(tmp_path: Path):
    def write(**changed) -> Path:
        path = tmp_path / "study.yml"
        path.write_text(yaml.safe_dump({**STUDY, **changed}))
        return path

    return write


# -- The file and the plan


def test_a_study_is_every_combination_of_its_values_for_every_seed(study):
    sweep = plan_study(load_study(study(vary={"perturbation_scale": [0, 1], "sparsity": [0.1, 0.2]}, hypotheses=[])))
    assert len(sweep.jobs) == 4 * 6
    assert [dict(options) for options in sweep.plan.experiments] == [
        {"perturbation_scale": scale, "sparsity": sparsity} for scale in (0.0, 1.0) for sparsity in (0.1, 0.2)
    ]
    assert sweep.runs == Path("build/runs/tiny")
    assert design_lines(sweep)[0] == "12 sham runs, 12 treated runs; seeds 0..5"


def test_controls_are_experiments_of_the_plan(study):
    path = study(vary={"perturbation_scale": [0.5, 1]}, controls=["sham", "positive"], hypotheses=[], seeds=[0, "3..4"])
    sweep = plan_study(load_study(path))
    assert sweep.plan.seeds == (0, 3, 4)
    assert [tuple(options.values()) for options in sweep.plan.experiments] == [(0.5, 1), (1, 1), (0, 1), (0.5, 1.5)]
    assert len(plan_study(load_study(study(controls=["positive"], hypotheses=[]))).jobs) == 12 + 6


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "../escape"}, "name = '../escape' is not allowed"),
        ({"grid": {}}, "unknown option 'grid'"),
        ({"seeds": "5..0"}, "5..0 has no value"),
        ({"seeds": []}, "seeds"),
        ({"vary": {"perturbation_scale": []}}, "vary.perturbation_scale"),
        ({"vary": {"seed": [1]}}, "give each option once"),
        ({"options": TINY | {"perturbation_scale": 1}}, "give each option once"),
        ({"options": TINY | {"stepz": 1}}, "unknown option 'stepz'"),
        ({"trainer": "magic"}, "trainer = 'magic' is not known; the trainers are prismatic, upcycled, command"),
        ({"thresholds": {"alpha": 0.5}}, "alpha = 0.5 is not allowed"),
        ({"hypotheses": [{"claim": "awakening", "expect": "higher"}]}, "expected supported or refuted"),
        ({"hypotheses": [{"claim": "joy", "expect": "supported"}]}, "a claim is one of awakening"),
        ({"hypotheses": [{"effect": "size", "expect": "higher"}]}, "expected higher or lower than `against`"),
        (
            {"hypotheses": [{"claim": "awakening", "expect": "supported", "of": {"perturbation_scale": 3}}]},
            "is about perturbation_scale=3, which no planned run has",
        ),
        (
            {
                "vary": {"perturbation_scale": [0, 1], "sparsity": [0.1, 0.2]},
                "hypotheses": [
                    {
                        "effect": "size",
                        "expect": "higher",
                        "of": {"sparsity": 0.1},
                        "against": {"perturbation_scale": 0},
                    }
                ],
            },
            "compares with none or several runs",
        ),
    ],
)
def test_an_invalid_study_is_refused_before_anything_starts(study, changed: dict, message: str):
    with pytest.raises(ConfigError) as error:
        plan_study(load_study(study(**changed)))
    assert message in str(error.value)


def test_each_run_registers_the_whole_plan_before_its_first_step(study, tmp_path: Path):
    read = load_study(study(options=TINY | {"steps": 2}, thresholds={"awakening_ratio": 1.2}))
    sweep = plan_study(read, tmp_path / "runs")
    write_config(read, sweep)
    words = sweep.with_copied_config().command(sweep.jobs[0])
    assert main(words) == 0
    found = facts(sweep.db_path(sweep.jobs[0]))
    assert read_plan(found) == sweep.plan
    assert (found["registered.awakening_ratio"], found["study.runs"], found["study.name"]) == (1.2, 12, "tiny")
    require_registered(sweep)
    assert finished_cost(sweep).of(sweep.jobs) > 0

    other = plan_study(load_study(study(options=TINY | {"steps": 2}, hypotheses=[])), tmp_path / "runs")
    with pytest.raises(StudyError, match="registered another plan"):
        require_registered(other)
    laxer = study(options=TINY | {"steps": 2}, thresholds={"awakening_ratio": 1.05})
    assert main(["study", str(laxer), "--runs", str(tmp_path / "runs")]) == 5
    more = plan_study(load_study(study(options=TINY | {"steps": 2}, thresholds={"awakening_ratio": 1.2}, seeds="0..9")))
    require_registered(more)  # more seeds are welcome


def test_a_run_of_no_study_is_not_taken_over(study, tmp_path: Path):
    sweep = plan_study(load_study(study()), tmp_path)
    path = sweep.db_path(sweep.jobs[0])
    with DynamicsLogger(path) as logger:
        logger.log_run({"exit_state": "running"})
    require_registered(sweep)  # it has no step yet, so it will register the plan
    with DynamicsLogger(path) as logger:
        logger.log(0, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
    with pytest.raises(StudyError, match="registered no plan of a study"):
        require_registered(sweep)


def begun(sweep, jobs=1):
    """Write the plan of a study and its first runs, as an interrupted `prismatic study` leaves them."""
    sweep.folder.mkdir(parents=True)
    sweep.with_copied_config()
    for job in sweep.jobs[:jobs]:
        with DynamicsLogger(sweep.db_path(job)) as logger:
            logger.log_run(sweep.plan.facts())
            logger.log(0, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})


@pytest.mark.parametrize(
    ("changed", "seen"),
    [
        ({"name": "other"}, "its name is 'tiny'"),
        ({"hypotheses": []}, "it registered other hypotheses or thresholds"),
        ({"thresholds": {"awakening_ratio": 1.2}}, "it registered other hypotheses or thresholds"),
        ({"options": TINY | {"steps": 90}}, "none of its 1 runs has the options of this one"),
    ],
)
def test_another_study_in_the_same_folder_is_refused_before_it_overwrites_the_plan(study, tmp_path, changed, seen):
    begun(sweep := plan_study(load_study(study()), tmp_path / "runs"))
    kept = sweep.plan_file.read_text()
    other = plan_study(load_study(study(**changed)), tmp_path / "runs")
    with pytest.raises(StudyError, match=seen) as error:
        require_own_folder(other)
    assert "Give this study a name of its own, or --runs" in str(error.value)
    assert main(["study", str(study(**changed)), "--runs", str(tmp_path / "runs")]) == 5
    assert sweep.plan_file.read_text() == kept


def test_a_study_that_varies_something_else_is_another_one(study, tmp_path):
    first = {"hypotheses": [], "vary": {"perturbation_scale": [0, 1]}}
    begun(plan_study(load_study(study(**first)), tmp_path / "runs"))
    other = plan_study(load_study(study(hypotheses=[], vary={"perturbation_scale": [0, 2]})), tmp_path / "runs")
    with pytest.raises(StudyError, match="it varies perturbation_scale=1"):
        require_own_folder(other)


@pytest.mark.parametrize(
    "changed", [{}, {"seeds": "0..9"}, {"vary": {"perturbation_scale": [0, 1, 2]}}, {"seeds": "0..2"}]
)
def test_a_study_is_resumed_also_with_more_seeds_and_experiments(study, tmp_path, changed):
    hypothesis = {"hypotheses": STUDY["hypotheses"][:1]}
    begun(plan_study(load_study(study(**hypothesis)), tmp_path / "runs"))
    require_own_folder(plan_study(load_study(study(**hypothesis, **changed)), tmp_path / "runs"))


def test_a_plan_without_any_run_may_be_replaced(study, tmp_path):
    begun(plan_study(load_study(study()), tmp_path / "runs"), jobs=0)
    require_own_folder(plan_study(load_study(study(hypotheses=[])), tmp_path / "runs"))


def test_the_words_of_a_study_name_its_plan(study, tmp_path: Path):
    sweep = plan_study(load_study(study()), tmp_path)
    plan = tmp_path / "plan.json"
    plan.write_text(sweep.plan.text)
    assert Study.from_words(sweep.study.words(plan)) == sweep.study
    plan.write_text("{}")
    with pytest.raises(ConfigError, match="not the plan of a study"):
        Study.from_words(sweep.study.words(plan))
    plan.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        Study.from_words(sweep.study.words(plan))


def test_the_smallest_effects_grow_with_the_spread_and_need_six_seeds(study):
    first, bottom, *_ = smallest_effects(plan_study(load_study(study())))
    assert "6 seeds show with 80 % power" in first
    assert bottom == "  bottom tier: 1.22x / 1.27x / 1.34x / 1.46x"  # as the seeds for 1.2x, 1.3x and 1.5x
    assert smallest_effects(plan_study(load_study(study(seeds="0..2")))) == [
        "3 seeds decide nothing: at least 6 are needed"
    ]


@pytest.mark.long
def test_a_plan_measures_its_time_by_a_short_trial_and_trains_nothing_else(study, tmp_path: Path, capsys):
    assert main(["study", str(study()), "--plan", "--runs", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr().out
    assert "12 runs of 60 steps, 720 in all" in output
    assert re.search(
        r"about .* s, \d at a time, for 12 runs of .* of training and .* s of start-up: by a trial", output
    )
    assert "by a trial of one run, 6 and 21 steps" in output
    assert "hypothesis: awakening is supported in every treated experiment" in output
    assert not (tmp_path / "runs").exists()


# -- A program of the user's own


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python train.py", "has no {run_file}"),
        ("python train.py {run_file} {speed}", "has no option 'speed'"),
    ],
)
def test_a_command_names_its_run_file_and_known_options(command: str, message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse({"trainer": "command", "command": command})


def test_the_words_of_a_command_keep_values_with_spaces(tmp_path: Path):
    config = parse({"trainer": "command", "command": "python -m my.train {run_file} {text}", "text": "a b; c"})
    assert isinstance(config, CommandConfig)
    assert config.words(tmp_path / "x.db") == [sys.executable, "-m", "my.train", str(tmp_path / "x.db"), "a b; c"]


@pytest.mark.long
def test_a_program_of_the_users_own_registers_its_options_and_the_plan(study, tmp_path: Path, monkeypatch):
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    options = {"command": f"python {program} {{run_file}} {{seed}} {{gain}}", "gain": 2.0}
    options["command"] += " {method}"  # an option that varies
    options |= {"steps": 12, "log_freq": 1}
    path = study(
        trainer="command", options=options, vary={"method": ["a", "b"]}, hypotheses=[], thresholds={"alpha": 0.04}
    )
    read = load_study(path)
    sweep = plan_study(read, tmp_path / "runs")
    write_config(read, sweep)
    job = sweep.with_copied_config().jobs[3]
    assert main(sweep.command(job)) == 0
    found = facts(sweep.db_path(job))
    assert (found["option.method"], found["option.seed"], found["option.gain"]) == ("a", 3, 2.0)
    assert (found["held_out_loss"], found["exit_state"], found["registered.alpha"]) == (3.0, "finished", 0.04)
    assert read_plan(found) == sweep.plan
    before = sweep.db_path(job).stat().st_mtime_ns
    assert main(sweep.command(job)) == 0  # a finished run is not trained again
    assert sweep.db_path(job).stat().st_mtime_ns == before
    assert load(sweep.db_path(job)).facts() == job.facts  # its options can be used again


def test_a_program_that_fails_or_writes_nothing_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="ended with exit code 1"):
        train_any(parse({"trainer": "command", "command": "python -c 1/0 {run_file}"}), runs=tmp_path)
    with pytest.raises(ConfigError, match="missing or not finished"):
        train_any(parse({"trainer": "command", "command": "python -c 1 {run_file}"}), runs=tmp_path)
    with pytest.raises(ConfigError, match="cannot be started"):
        train_any(parse({"trainer": "command", "command": "/no/such/program {run_file}"}), runs=tmp_path)


def test_a_run_that_another_process_trains_is_left_alone(tmp_path: Path):
    config = parse({"trainer": "command", "command": "python -c 1 {run_file}"})
    path = tmp_path / config.run_hash("") / "dynamics.db"
    with DynamicsLogger(path), pytest.raises(LoggerError, match="is being trained by another process"):
        train_any(config, runs=tmp_path, resume="allow")
    assert path.exists()


# -- Resuming


@pytest.mark.long
def test_a_study_that_was_killed_three_times_ends_with_the_same_report(study, tmp_path: Path):
    """Kill the whole process group, trainings included, at three moments; only dates may differ in the end."""
    path = study(options=TINY | {"steps": 90})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        shutil.copy(path, folder / "study.yml")
    assert _run(whole).wait(900) == 0
    for finished in (1, 4, 8):  # kill it while the next runs are in training
        process = _run(broken)
        deadline = time.monotonic() + 600
        while not _in_the_middle(broken, finished) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None
        _kill_with_children(process)
    assert _run(broken).wait(900) == 0
    texts = [
        [_undated(folder / "runs" / "study" / name) for name in ("report.html", "study.json")]
        for folder in (whole, broken)
    ]
    assert texts[0] == texts[1]
    assert json.loads(texts[0][1])["missing"] == []


# -- Engines


@pytest.mark.long
def test_a_study_is_trained_on_ray_and_judged_as_anywhere(study, tmp_path: Path, capsys):
    pytest.importorskip("ray", reason="Ray is not installed")
    path, runs = study(options=TINY | {"steps": 30}, seeds="0..1"), tmp_path / "runs"
    command = ["study", str(path), "--runs", str(runs), "--workers", "2"]
    assert main([*command, "--engine", "ray", "--address", "local"]) == 0
    sweep = plan_study(load_study(path), runs)
    assert all(read_plan(facts(sweep.db_path(job))) == sweep.plan for job in sweep.jobs)
    report = (runs / "study" / "study.json").read_text()
    assert (json.loads(report)["missing"], len(json.loads(report)["runs"])) == ([], 4)
    capsys.readouterr()
    assert main(command) == 0  # the next command finds nothing to train, on this machine or on another
    assert "4 of 4 runs are finished already" in capsys.readouterr().out
    assert (runs / "study" / "study.json").read_text() == report


def test_slurm_gets_a_study_as_one_array_of_jobs_that_it_may_queue_again(study, tmp_path: Path, monkeypatch):
    """No cluster is here: programs of its names keep the script that it would get."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"sbatch": f'cp "$1" {tmp_path}/script.sh; echo Submitted batch job 7', "srun": ":"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    sweep = plan_study(load_study(study(seeds="0..1")), tmp_path / "runs")
    engine = OnSlurm(sweep.folder / "slurm", 2, settings={"timeout_min": 240, "slurm_partition": "long"})
    tasks = [Task(job.run_hash, tuple(sweep.command(job)), tmp_path / "log", tmp_path) for job in sweep.jobs]
    engine.start(tasks)
    script = (tmp_path / "script.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script, re.M))
    assert (options["array"], options["time"], options["partition"]) == ("0-3%2", "240", "long")
    assert options["job-name"] == "prismatic"
    assert "submitit.core._submit" in script
    held = sorted((sweep.folder / "slurm").glob("7_*_submitted.pkl"))
    assert [pickle.loads(path.read_bytes()).function.task for path in held] == tasks


def _run(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "prismatic", "study", "study.yml", "--runs", "runs", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    command += ["--checkpoint-freq", "20"]
    with (folder / "study.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def _in_the_middle(folder: Path, finished: int) -> bool:
    """Return True if that many runs are finished and another has written rows."""
    log = (folder / "study.log").read_text()
    done = {line.split()[1] for line in log.splitlines() if line.startswith("finished ")}
    begun = {path.parent.name for path in folder.glob("runs/*/checkpoint*")}
    return len(done) >= finished and bool(begun - done)


def _kill_with_children(process: subprocess.Popen) -> None:
    """Kill a study and its trainings, each of which leads a session of its own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for group in (process.pid, *map(int, children)):
        os.killpg(group, signal.SIGKILL)
    process.wait()


def _undated(path: Path) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "DATE", path.read_text())
