"""`prismatic sweep`: the grid, the controls, the engines, retries, resuming, progress, and the verdict."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from scipy import stats

from prismatic.cli import main, parser
from prismatic.contract.study import read_study
from prismatic.errors import ConfigError, CorpusError, SweepError
from prismatic.runfile.lock import is_locked
from prismatic.runfile.logger import DynamicsLogger
from prismatic.sweep.design import SEEDS_FOR_POWER, SPREADS, design_lines
from prismatic.sweep.engines import Local, OnRay, OnSlurm
from prismatic.sweep.plan import Sweep, format_value, plan
from prismatic.sweep.progress import Progress
from prismatic.sweep.runner import last_lines, run_sweep
from prismatic.train.config import RunConfig, load_config, parse_config
from prismatic.train.corpus import Corpus
from prismatic.train.train import train
from validation import read_sources
from validation.analysis.load import load_runs
from validation.verdict.registration import registered_study

TINY = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "sequence_length": 16, "batch_size": 2}
TINY |= {"steps": 30, "log_freq": 1, "warmup_steps": 0}
EXPERIMENTS = Path(__file__).parents[3] / "experiments"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in TINY.items()))
    return path


def options_of(sweep: Sweep) -> list[dict]:
    return [job.options for job in sweep.jobs]


def facts(path: Path) -> dict:
    with closing(sqlite3.connect(path)) as db:
        return {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM run")}


def events(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return [code for (code,) in db.execute("SELECT code FROM events WHERE code != 'measuring'")]


# -- The grid


def test_a_grid_is_every_combination_and_the_last_name_changes_fastest():
    sweep = plan(None, ["perturbation_scale=0.5,1", "seed=0..2"])
    assert options_of(sweep) == [{"perturbation_scale": s, "seed": n} for s in (0.5, 1) for n in (0, 1, 2)]


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ("seed=3", [3]),
        ("seed=0..2,7", [0, 1, 2, 7]),
        ("perturbation_scale=1e-3, .5", [0.001, 0.5]),
        ("merge=batch,example", ["batch", "example"]),
        ("max_grad_norm=null,1.0", [None, 1.0]),
    ],
)
def test_values_are_read_as_yaml_and_a_range_as_its_integers(given: str, values: list):
    sweep = plan(None, [given])
    assert [getattr(job.config, given.partition("=")[0]) for job in sweep.jobs] == values


@pytest.mark.parametrize(
    ("grid", "rest", "message"),
    [
        (["seed"], {}, "expected NAME=VALUES"),
        (["seed="], {}, "there is no value"),
        (["seed=0,[1"], {}, "cannot be read as YAML"),
        (["seed=4..0"], {}, "4..0 has no value"),
        (["seed=0..1000000"], {}, "more than 100,000"),
        (["seed=0..999", "hidden_size=4..999"], {}, "these are 996,000 runs"),
        (["sead=0,1"], {}, "unknown option 'sead'"),
        (["perturbation_scale=-1,1"], {}, "perturbation_scale = -1 is not allowed"),
        (["hidden_size=64,66"], {}, "must be a multiple of num_heads"),
        (["seed=0", "seed=1"], {}, "is given twice"),
        (["seed=0,1"], {"overrides": ["seed=3"]}, "already has one value by --set seed"),
        (["data=a,b"], {"data": Path(__file__)}, "already has one value by --data"),
        (["perturbation_scale=1,1.0"], {}, "perturbation_scale=1 and perturbation_scale=1.0 are the same run"),
        (["seed=0,1"], {"overrides": ["steps=none"]}, "steps = 'none' is not allowed"),
    ],
)
def test_an_invalid_grid_is_refused_before_anything_starts(grid: list, rest: dict, message: str):
    with pytest.raises(ConfigError) as error:
        plan(None, grid, **rest)
    assert message in str(error.value)


def test_text_that_is_too_short_is_refused_before_anything_starts(tmp_path: Path):
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(CorpusError, match=r"short\.txt has"):
        plan(None, ["seed=0,1"], data=tmp_path / "short.txt")


def test_each_command_is_a_plain_training_command_for_its_run(config: Path, tmp_path: Path):
    text = tmp_path / "notes: a draft.txt"
    text.write_text("some text to learn from " * 30)
    grid = ["perturbation_scale=0,1e-3,2", "merge=batch,example", "max_grad_norm=null,1"]
    sweep = plan(config, grid, overrides=["learning_rate=1e-2"], data=text, with_controls=True)
    for job in sweep.jobs:
        options = parser().parse_args(shlex.split(shlex.join(sweep.command(job))))
        made = load_config(options.config, options.set).model_copy(update={"data": options.data})
        assert made.run_hash(Corpus.load(text).sha256) == job.run_hash
        assert (options.resume, options.runs) == ("allow", Path("build/runs"))


@pytest.mark.parametrize(
    "value", [True, None, 1, 1.5, 1e-7, "batch", "true", "a b", "a,b", "1e-3", "it's", [1], {"a": 1}]
)
def test_a_value_on_the_command_line_is_read_as_the_same_value(value: object):
    assert yaml.safe_load(format_value(value)) == value


# -- Controls


def test_controls_are_a_sham_run_and_a_positive_control_of_each_seed():
    sweep = plan(None, ["perturbation_scale=2,0.5", "seed=0,1"], with_controls=True)
    added = options_of(sweep)[4:]
    assert added == [
        control
        for seed in (0, 1)
        for control in (
            {"perturbation_scale": 0.0, "seed": seed},
            {"perturbation_scale": 0.5, "seed": seed, "positive_control": 1.5},
        )
    ]


def test_controls_that_the_grid_has_are_not_added():
    grid = ["perturbation_scale=0.001,1", "positive_control=1,1.2", "seed=0"]
    assert len(plan(None, grid, with_controls=True).jobs) == 4


def test_every_treated_run_has_a_sham_run_that_differs_in_nothing_else():
    grid = ["merge=batch,example", "perturbation_scale=0.5,1"]
    sweep = plan(EXPERIMENTS / "per-example.yml", grid, with_controls=True)
    assert len(sweep.jobs) == 6 * 2 * (2 + 1 + 1)

    shams = [job.config for job in sweep.jobs if job.config.perturbation_scale == 0]
    treated = [job.config for job in sweep.jobs if job.config.perturbation_scale > 0]
    for config in treated:
        twins = shams.count(config.model_copy(update={"perturbation_scale": 0.0}))
        assert twins == (config.positive_control == 1)


def test_a_sweep_of_sham_runs_needs_no_controls():
    assert len(plan(EXPERIMENTS / "sham.yml", ["seed=0,1"], with_controls=True).jobs) == 2


@pytest.mark.parametrize(
    ("options", "seeds"),
    [
        ({"with_controls": True}, (0, 1, 2, 3, 4, 5)),
        ({"with_controls": True, "overrides": ["seed=3"]}, (3,)),
        ({"with_controls": True, "grid": ["seed=7,9"]}, (7, 9)),
        ({}, (0,)),
    ],
)
def test_controls_come_with_six_seeds_unless_the_user_names_seeds(options: dict, seeds: tuple):
    sweep = plan(EXPERIMENTS / "per-example.yml", **{"grid": []} | options)
    assert sweep.study.seeds == seeds
    assert {job.config.seed for job in sweep.jobs} == {*seeds}


def test_the_first_lines_say_what_is_trained_and_what_it_can_decide():
    sweep = plan(EXPERIMENTS / "per-example.yml", [], with_controls=True)
    runs, power, refuting = design_lines(sweep)
    assert runs == "6 treated runs, 6 sham runs, 6 positive controls; seeds 0..5"
    assert power.endswith(": 1.2x: 8 / 13 / 23 / 44; 1.3x: 6 / 6 / 8 / 14; 1.5x: 6 / 6 / 6 / 6")
    assert "more than 100 without" in refuting


def test_too_few_seeds_and_control_experts_are_said_before_training():
    few, controls = design_lines(plan(EXPERIMENTS / "prismatic.yml", ["seed=0..2"]))[3:]
    assert few == "3 seeds: fewer than six decide nothing over seeds; --grid seed=0..5 trains six"
    assert controls == "fewer than three control experts (0): effects vary more; --set control_experts=3"


def test_a_sweep_of_sham_runs_only_names_its_runs():
    assert design_lines(plan(EXPERIMENTS / "sham.yml", ["seed=4"])) == ["1 sham run; seeds 4"]


def test_the_seeds_for_80_percent_power_are_those_of_students_test():
    """Compute the power exactly, by the noncentral t distribution."""
    for effect, row in SEEDS_FOR_POWER.items():
        for spread, seeds in zip(SPREADS, row, strict=True):

            def power(seeds: int, distance: float = math.log(effect / 1.1) / spread) -> float:
                needed = stats.t.ppf(0.975, seeds - 1)
                return float(stats.nct.sf(needed, seeds - 1, distance * math.sqrt(seeds)))

            assert power(seeds) >= 0.8
            assert seeds == 6 or power(seeds - 1) < 0.8


# -- Registration


def test_the_study_is_the_same_for_the_same_runs_in_any_order():
    studies = [plan(None, [f"seed={seeds}"]).study for seeds in ("0,1,2", "2,0..1", "0,1,3")]
    assert studies[0] == studies[1]
    assert studies[0].sha256 != studies[2].sha256
    hashes = sorted(job.run_hash for job in plan(None, ["seed=0..2"]).jobs)
    assert studies[0].sha256 == hashlib.sha256("".join(hashes).encode()).hexdigest()


@pytest.mark.long
def test_each_run_of_a_sweep_registers_the_study_and_a_selection_of_its_files_is_found_out(
    config: Path, tmp_path: Path
):
    sweep = plan(config, ["seed=0..2"], runs=tmp_path / "runs")
    assert run_sweep(sweep, Local(2), Progress(), retries=0).failed == []
    paths = [sweep.db_path(job) for job in sweep.jobs]
    assert all(read_study(facts(path)) == sweep.study for path in paths)
    assert facts(paths[0])["run_hash"] == sweep.jobs[0].run_hash
    runs = load_runs(read_sources(paths)[0])
    assert registered_study(runs).status == "as_registered"
    assert registered_study(runs[1:]).because == "2 of 3 planned seeds are here; missing: 0"


def test_a_resumed_run_keeps_the_study_that_it_registered_first(config: Path, tmp_path: Path):
    first, later = (plan(config, [f"seed={seeds}"]) for seeds in ("0..1", "0..5"))
    path = _interrupted(first.jobs[0].config, tmp_path, study=first.study)
    train(later.jobs[0].config, runs=tmp_path, resume="must", study=later.study)
    assert read_study(facts(path)) == first.study
    train(later.jobs[0].config, runs=tmp_path, overwrite=True, study=later.study)
    assert read_study(facts(path)) == later.study


# -- Training


@pytest.mark.long
def test_the_command_trains_what_is_missing_and_ends_in_one_verdict(config: Path, tmp_path: Path, capfd):
    """Five of six runs are finished and one was interrupted: only that one is trained, from its checkpoint."""
    runs = tmp_path / "runs"
    made = [RunConfig(**TINY | {"perturbation_scale": scale, "seed": seed}) for scale in (0, 0.5, 1) for seed in (0, 1)]
    finished = [train(one, runs=runs) for one in made[:5]]
    before = [result.db_path.stat().st_mtime_ns for result in finished]
    interrupted = _interrupted(made[5], runs)

    sweep = ["sweep", "--config", str(config), "--grid", "perturbation_scale=0,0.5,1", "seed=0..1", "--runs", str(runs)]
    assert main([*sweep, "--checkpoint-freq", "10"]) == 0
    output = capfd.readouterr().out
    assert "5 of 6 runs are finished already" in output
    assert output.count("\nfinished ") == 1
    assert [result.db_path.stat().st_mtime_ns for result in finished] == before
    assert "resumed" in events(interrupted)
    assert read_study(facts(interrupted)) is None  # it had steps before this study was planned
    assert "2 sham runs, 4 treated runs; seeds 0..1" in output
    assert (interrupted.with_name("train.log")).read_text().startswith("run ")
    assert re.search(r"^perturbation_scale=0.5 +2 runs ", output, re.MULTILINE)
    assert "--verbose shows each run, the dose-response" in output
    (run_set,) = runs.glob("sweeps/*/set")
    assert f"prismatic report {run_set}" in output
    assert facts(interrupted)["exit_state"] == "finished"


def _interrupted(config: RunConfig, runs: Path, **options) -> Path:
    """Train a run that is stopped at step 20 of 30, with a checkpoint, and return its file."""
    batch = Corpus.batch

    def until_20(corpus, step, **sizes):
        if step == 20:
            raise KeyboardInterrupt
        return batch(corpus, step, **sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Corpus, "batch", until_20)
        with pytest.raises(KeyboardInterrupt):
            train(config, runs=runs, checkpoint_freq=10, **options)
    return runs / config.run_hash(Corpus.load().sha256) / "dynamics.db"


@pytest.mark.long
def test_a_run_that_fails_is_tried_again_and_reported_with_its_last_lines(config: Path, tmp_path: Path, capsys):
    sweep = plan(config, ["device=abacus"], runs=tmp_path / "runs")
    outcome = run_sweep(sweep, Local(2), Progress(), retries=1)
    assert outcome.finished == []
    (failure,) = outcome.failed
    assert (failure.job.options, failure.reason) == ({"device": "abacus"}, "exit code 2")
    assert any("device = 'abacus' cannot be used here" in line for line in failure.log_tail)
    assert "exit code 2; it is tried again" in capsys.readouterr().out
    assert sweep.db_path(failure.job).with_name("train.log").read_text().count("error: device") == 2


@pytest.mark.long
def test_an_interrupted_sweep_leaves_no_process_and_complete_files(config: Path, tmp_path: Path):
    runs = tmp_path / "runs"
    command = ["sweep", "--config", str(config), "--set", "steps=1000000", "--grid", "seed=0,1", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "prismatic", *command, "--runs", str(runs)], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not any(map(_steps, runs.glob("*/dynamics.db"))) and time.monotonic() < deadline:
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command continues" in output
    (db_path,) = runs.glob("*/dynamics.db")  # the second run was never started
    assert facts(db_path)["exit_state"] == "interrupted"
    assert not is_locked(db_path)


def _steps(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute("SELECT count(*) FROM dynamics").fetchone()[0]
    except sqlite3.Error:
        return 0


def test_a_dry_run_prints_the_commands_and_starts_nothing(tmp_path: Path, capsys):
    assert main(["sweep", "--grid", "seed=0..1", "--runs", str(tmp_path / "runs"), "--dry-run"]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert output.err.startswith("2 treated runs; seeds 0..1\n")
    assert [line.split(" --set ")[0] for line in lines] == ["prismatic train"] * 2
    assert not (tmp_path / "runs").exists()


def test_editing_the_config_during_a_sweep_changes_none_of_its_runs(config: Path, tmp_path: Path):
    sweep = plan(config, ["seed=0"], runs=tmp_path / "runs").with_copied_config()
    config.write_text("steps: 1")
    options = parser().parse_args(sweep.command(sweep.jobs[0]))
    assert load_config(options.config, options.set).run_hash(Corpus.load().sha256) == sweep.jobs[0].run_hash


def test_a_sweep_takes_its_options_from_a_run_file(tmp_path: Path):
    options = {"steps": 40, "seed": 3, "merge": "example"}
    with DynamicsLogger(tmp_path / "dynamics.db", num_experts=1) as logger:
        logger.log_run({f"config.{name}": value for name, value in parse_config(options).facts().items()})
    sweep = plan(tmp_path / "dynamics.db", ["seed=0..1"], runs=tmp_path / "runs").with_copied_config()
    for job, seed in zip(sweep.jobs, (0, 1), strict=True):
        given = parser().parse_args(sweep.command(job))
        assert load_config(given.config, given.set) == parse_config({**options, "seed": seed})


# -- Engines


@pytest.mark.parametrize(("engine", "library"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_says_how_to_install_it(monkeypatch, tmp_path, capsys, engine, library):
    monkeypatch.setitem(sys.modules, library, None)
    assert main(["sweep", "--grid", "seed=0", "--runs", str(tmp_path), "--engine", engine]) == 2
    assert (
        f'{library} is not installed; install it with: pip install "prismatic-dynamics[sweep]"'
        in capsys.readouterr().err
    )


def test_an_unreachable_cluster_is_refused_at_once():
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(SweepError, match="it does not answer"):
        OnRay("127.0.0.1:1", None)


def test_without_slurm_its_engine_says_how_to_use_it(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SweepError, match="try it here with --address local"):
        OnSlurm(tmp_path, None)


@pytest.mark.long
def test_submitit_trains_a_sweep(config: Path, tmp_path: Path, capsys):
    sweep = plan(config, ["seed=0"], runs=tmp_path / "runs")
    engine = OnSlurm(tmp_path / "slurm", None, address="local", settings={"timeout_min": 5})
    outcome = run_sweep(sweep, engine, Progress(), retries=0)
    assert (outcome.finished, outcome.failed) == ([*sweep.jobs], [])
    db_path = sweep.db_path(sweep.jobs[0])
    assert facts(db_path)["exit_state"] == "finished"
    assert read_study(facts(db_path)) == sweep.study
    assert str(db_path) in db_path.with_name("train.log").read_text()


# -- Progress


class Terminal(io.StringIO):
    """A stream that claims to be a terminal and keeps the text written to it."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines that a person sees, by the escape codes that rich uses."""
        lines, row = [""], 0
        for code, text in re.findall(r"(\x1b\[[?\d;]*[A-Za-z]|\r|\n)|([^\x1b\r\n]+)", self.getvalue()):
            if code == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif code == "\x1b[1A":
                row -= 1
            elif code == "\x1b[2K":
                lines[row] = ""
            else:
                lines[row] += text
        return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def terminal(monkeypatch) -> Terminal:
    for name, value in {"COLUMNS": "60", "LINES": "6", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


def test_on_a_terminal_the_table_is_redrawn_in_place_and_events_stay_above_it(terminal: Terminal):
    rows = [{"run": str(number), "options": "x" * 100} for number in range(9)]
    with Progress(terminal) as progress:
        progress.show("0 of 9", rows)
        lines = terminal.screen()
        assert (lines[0], lines[1].split(), lines[-1]) == ("0 of 9", ["run", "options"], "... and 7 more")
        assert len(lines) == 5
        assert max(map(len, lines)) <= 60
        progress.print("finished 0")
        assert terminal.screen() == ["finished 0", *lines]
        progress.show("1 of 9", rows[:1])
        assert [line.split()[0] for line in terminal.screen()] == ["finished", "1", "run", "0"]
    assert terminal.screen() == ["finished 0"]


def test_in_a_pipe_only_lines_are_written(capsys):
    progress = Progress()
    progress.print("one")
    assert not progress.is_due
    progress.show("1 of 2", [{"run": "a"}])
    assert capsys.readouterr().out == "one\n1 of 2\n"


def test_the_last_lines_of_a_log_come_without_control_characters(tmp_path: Path):
    (tmp_path / "log").write_bytes(b"first\n" * 20 + b"\n\x1b[2Jlast \xff\n")
    lines = last_lines(tmp_path / "log")
    assert (len(lines), lines[-1]) == (12, " [2Jlast \ufffd")
    assert last_lines(tmp_path / "missing") == ()
