"""A next command works where it is copied from: it finds the options of the run, and the folder of its runs."""

import shlex
import shutil

import pytest

from prismatic.cli import parser
from prismatic.sweep.plan import plan
from tests.support.report_readers import ROOT
from tests.support.simulated_runs import study, write
from validation.files.parquet_set import write_set
from validation.files.sources import read_sources
from validation.judgement.glance import glance_of, step_of
from validation.judgement.judge import judge
from validation.judgement.step import Advice, origin_of

EXAMPLES = ROOT / "examples"
ADVICE = Advice("replicate", "", ("probe_freq=8",), ("perturbation_scale=0,2", "seed=0..5"))


def planned(command):
    """Return the runs that the trainer plans for a command, as a shell splits it."""
    options = parser().parse_args(shlex.split(command)[1:])
    return plan(options.config, options.grid, overrides=options.set, runs=options.runs)


def placed(folder):
    """Return a run of the trainer as FOLDER/HASH/dynamics.db."""
    file = folder / "0a1b2c3d4" / "dynamics.db"
    file.parent.mkdir(parents=True)
    shutil.copy(EXAMPLES / "as-is.db", file)
    (run,) = read_sources([file])[0]
    run.facts["run_hash"] = file.parent.name
    return run, file


def test_a_command_for_runs_of_a_set_names_their_options_and_plans_the_same_runs():
    files, _ = read_sources([EXAMPLES / "study"])
    there = {file.facts["run_hash"] for file in files}
    treated = next(file for file in files if file.facts["config.perturbation_scale"] == 2)
    for portable in (True, False):
        origin = origin_of(treated, portable=portable)
        command = Advice("replicate", "", grid=ADVICE.grid).command(origin)
        assert "--config" not in command
        assert {job.run_hash for job in planned(command).jobs} <= there
    assert "probe_freq=8 " in ADVICE.command(origin)  # in place of the own probe_freq=16
    assert "probe_freq=16" not in ADVICE.command(origin)


def test_next_steps_of_a_set_can_be_planned():
    step = glance_of(judge(*read_sources([EXAMPLES / "study"]))).step
    assert "scale 4" in step.text  # scale 2 is one of the study's
    assert step.cost.startswith(f"{len(planned(step.command).jobs)} runs, about ")
    assert step.cost.endswith("finished ones in build/runs are skipped.")


def test_a_file_anywhere_is_found_from_here_with_its_folder_of_runs(tmp_path, monkeypatch):
    run, file = placed(tmp_path / "my runs")
    sweep = planned(ADVICE.command(origin_of(run, portable=False)))
    assert (sweep.config, sweep.runs) == (file, tmp_path / "my runs")
    assert str(tmp_path) not in ADVICE.command(origin_of(run, portable=True))
    monkeypatch.chdir(tmp_path)
    for portable in (True, False):
        origin = origin_of(run, portable=portable)
        assert (origin.config, origin.runs) == ("my runs/0a1b2c3d4/dynamics.db", "my runs")


def test_the_default_folder_of_runs_is_not_named(tmp_path, monkeypatch):
    run, _ = placed(tmp_path / "build" / "runs")
    monkeypatch.chdir(tmp_path)
    command = ADVICE.command(origin_of(run, portable=False))
    assert "--config build/runs/0a1b2c3d4/dynamics.db" in command
    assert "--runs" not in command


def test_a_set_of_a_study_names_the_folder_of_its_runs(tmp_path):
    run, _ = placed(tmp_path / "runs")
    write_set([run], tmp_path / "runs" / "study" / "set")
    (stored,) = read_sources([tmp_path / "runs" / "study" / "set"])[0]
    assert planned(ADVICE.command(origin_of(stored, portable=False))).runs == tmp_path / "runs"
    assert origin_of(stored, portable=True).runs == "build/runs"


def test_an_upload_names_its_options_and_not_its_place(tmp_path):
    shutil.copy(EXAMPLES / "per-example.db", tmp_path / "0123.db")
    (run,) = read_sources([(tmp_path / "0123.db", "my upload.db")])[0]
    for portable in (True, False):
        command = ADVICE.command(origin_of(run, portable=portable))
        assert "--config" not in command
        assert str(tmp_path) not in command


def test_the_time_of_a_run_is_the_mean_of_runs_as_long(tmp_path):
    files = [
        write(run, tmp_path / f"{n}.db", run_hash=f"{n}" * 9, started=100.0, ended=100.0 + 2 * n)
        for n, run in enumerate(study(3, perturbed=3, control=3), start=1)
    ]
    judgement = judge(*read_sources(files))
    advice = Advice("replicate", "", grid=("seed=0..5",), run=judgement.runs[0].id)
    assert step_of(advice, judgement).cost.startswith("6 runs, about 4 s of training each, plus start-up; ")


@pytest.mark.parametrize("name", ["as-is", "per-example", "positive-control"])
def test_the_options_of_an_example_are_those_of_its_file(name, tmp_path):
    from prismatic.train.config import load_config

    (run,) = read_sources([(EXAMPLES / f"{name}.db", "upload.db")])[0]
    words = [f"{key}={value}" for key, value in origin_of(run, portable=True).options.items()]
    assert load_config(None, words) == load_config(EXAMPLES / f"{name}.db")
