"""Runs trained and judged on a Ray cluster of two machines, here two sets of processes, one of which is lost."""

from __future__ import annotations

import json
import pickle
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from prismatic.sweep.engines import OnRay
from prismatic.sweep.plan import plan
from prismatic.sweep.progress import Progress
from prismatic.sweep.runner import run_sweep
from tests.support.probed_runs import probed_run
from tests.support.report_readers import as_text
from tests.support.simulated_runs import named, study, with_norms, write
from validation.cli.main import main
from validation.files import parquet_set
from validation.files.limits import ReadLimits
from validation.files.set_manifest import SetLocation, read_manifest
from validation.files.sources import read_sources
from validation.judgement.judge import judge
from validation.judgement.on_ray import Share, _read, check
from validation.report.json_report import as_json

# Warnings of Ray about itself, when it is imported and started.
pytestmark = [
    pytest.mark.long,  # starts a cluster
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def machines() -> Iterator[list]:
    """Yield the cluster and its second machine."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        machines = [cluster, cluster.add_node(num_cpus=1)]
        yield machines
        cluster.shutdown()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a set in several parts, run files of which two are also in the set, and sources that are not runs.

    The runs depend on each other in every way: sham runs, seeds, options, an unfinished run, a broken one, layers and
    isolated gradients, and means over layers alone.
    """
    made = {"steps": 120, "layers": 2, "config": {"num_layers": 2}}
    runs = study(3, probed_run, twins=True, bottom=0.4, direction=0.2, **made)
    runs += [named(run, f"means {run.id}", width=2) for run in study(3, steps=120, config={"num_layers": 2})]
    runs += [named(run, f"half {run.id}", width=3) for run in study(2, steps=120, facts={"planned_steps": 240})]
    zeros = np.zeros(120)
    runs.append(
        named(with_norms(with_norms(study(1, steps=120)[0], 0, bottom_norm=zeros), 1, bottom_norm=zeros), "zero")
    )
    for number, run in enumerate(runs):
        (tmp_path / "runs" / f"{number:02}").mkdir(parents=True)
        write(run, tmp_path / "runs" / f"{number:02}" / "dynamics.db", run_hash=f"{number:02}0abcdef")
    monkeypatch.setattr(parquet_set, "PART_RUNS", 3)
    files, _ = read_sources([tmp_path / "runs"])
    parquet_set.write_set(files[:8], tmp_path / "set")
    (tmp_path / "notes.db").write_text("no run at all")
    return [
        *(str(run.path) for run in files[6:]),
        str(tmp_path / "set"),
        str(tmp_path / "notes.db"),
        str(tmp_path / "no"),
    ]


def test_the_cluster_agrees_with_one_process_to_the_last_digit(machines: list, sources: list[str]):
    local = judge(*read_sources(sources), {"awakening_ratio": 1.2})
    spread = check(sources, machines[0].address, changed={"awakening_ratio": 1.2})
    assert as_json(spread) == as_json(local)
    assert as_text(spread) == as_text(local)
    assert spread.verdict.controlled == local.verdict.controlled
    assert spread.verdict.groups == local.verdict.groups
    assert (len(spread.runs), len(spread.rejected)) == (12, 2)
    claims = spread.verdict.controlled.claims
    assert any(claim.twins and claim.source == "isolated" for claim in claims)
    assert {"supported", "invalid", "confounded", "inconclusive"} <= {claim.status for claim in claims}


def test_facts_are_sent_without_rows(sources: list[str]):
    place = SetLocation.parse(next(source for source in sources if source.endswith("/set")))
    (facts, _), runs = _read(Share(part=(place.uri, read_manifest(place).parts[0])), ReadLimits(), cached=False)
    assert len(facts) == len(runs) >= 1
    rows = sum(values.nbytes for run in runs for expert in run.experts.values() for values in expert.columns.values())
    assert len(pickle.dumps(facts)) < 30_000 + rows / 10  # the first number is that of the empty tables, sent once


def test_a_damaged_set_is_reported_as_in_one_process(machines: list, sources: list[str], tmp_path: Path):
    parts = sorted((tmp_path / "set" / "facts").rglob("*.parquet"))
    parts[1].write_bytes(b"damaged")
    reports = [as_json(judge(*read_sources(sources))), as_json(check(sources, machines[0].address))]
    assert reports[0] == reports[1]
    assert "not_a_set" in {finding["id"] for finding in reports[0]["diagnostics"]}


@pytest.mark.long
def test_a_sweep_outlives_the_loss_of_a_machine(machines: list, tmp_path: Path):
    """Each machine trains a run when the second machine is lost; the first one resumes its run."""
    cluster, second = machines
    options = ["hidden_size=16", "num_layers=1", "num_heads=2", "sequence_length=16", "batch_size=2", "steps=400"]
    sweep = plan(None, ["seed=0,1"], overrides=options, runs=tmp_path / "runs", checkpoint_freq=50)
    files = [sweep.db_path(job) for job in sweep.jobs]
    lost = threading.Thread(target=_lose, args=(cluster, second, files))
    lost.start()
    outcome = run_sweep(sweep, OnRay(cluster.address, None), Progress(), retries=1)
    lost.join()
    assert (sorted(outcome.finished, key=str), outcome.failed) == ([*sweep.jobs], [])
    assert [_number(path, "SELECT count(*) FROM dynamics") for path in files] == [41, 41]
    assert sum(_number(path, "SELECT count(*) FROM events WHERE code = 'resumed'") for path in files) == 1


def _lose(cluster, machine, files: list[Path]) -> None:
    """Remove the machine as soon as both runs have logged steps."""
    deadline = time.monotonic() + 120
    while not all(_number(path, "SELECT count(*) FROM dynamics") for path in files) and time.monotonic() < deadline:
        pass
    cluster.remove_node(machine, allow_graceful=False)


def _number(path: Path, question: str) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute(question).fetchone()[0]
    except sqlite3.Error:
        return 0


def test_an_unreachable_cluster_is_an_error_with_code_2(capsys):
    assert main(["check", "--ray", "127.0.0.1:1", "--json", "examples"]) == 2
    captured = capsys.readouterr()
    assert "Ray at 127.0.0.1:1 cannot be reached" in captured.err
    assert json.loads(captured.out)["diagnostics"][0]["id"] == "usage"
