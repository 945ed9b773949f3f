"""No check finds a fault in honest files: trainings of many kinds, resumed ones, custom mixtures, imports, examples."""

from pathlib import Path

import pytest

from examples import lora, topk_moe
from prismatic.train.config import RunConfig
from prismatic.train.corpus import Corpus
from prismatic.train.train import train
from tests.support import bad_files
from tests.support.layered_runs import write_layers
from tests.validation.diagnostics.conftest import TRAINED, loaded
from validation.diagnostics import ERROR, WARNING, diagnose
from validation.diagnostics.consistency import find_copies

KINDS = {
    "one merge per batch": {"merge": "batch"},
    "one merge per batch, frozen": {"merge": "batch", "routing": "frozen", "probe_freq": 0},
    "nothing perturbed": {"perturbation_scale": 0.0, "control_scale": 0.0},
    "nothing perturbed, frozen": {"perturbation_scale": 0.0, "control_scale": 0.0, "routing": "frozen"},
    "one direction, frozen": {"perturbation_mode": "repulsive", "routing": "frozen"},
    "a strong perturbation": {"perturbation_mode": "attractive", "perturbation_scale": 3.0},
    "positive control": {"positive_control": 3.0},
    "tiers of few weights": {"sparsity": 0.03, "control_experts": 1, "num_experts": 2},
    "current tiers": {"tier_basis": "current"},
    "expert dropout": {"expert_dropout": 0.3},
    "load balancing, one layer": {"load_balancing": 0.1, "num_layers": 1},
    "odd frequencies": {"log_freq": 3, "steps": 60},
    "a batch that cannot be halved": {"batch_size": 1},
    "high learning rate": {"learning_rate": 0.03},
}
EXPECTED = {"collinear_gradients", "router_collapse", "positive_control", "zero_tier"}
"""Warnings about the experiment, not about the file."""


def faults(*paths: Path) -> list[str]:
    """Return every error, and every warning about the file."""
    runs = loaded(*paths)
    findings = [finding for run in runs for finding in diagnose(run)] + [*find_copies(runs)]
    found = [f for f in findings if f.severity == ERROR or (f.severity == WARNING and f.id not in EXPECTED)]
    return [f"{finding.id}: {finding.evidence}" for finding in found]


SOON = ("one merge per batch", "expert dropout", "tiers of few weights")
"""The kinds that each run of the tests trains; the others take long together."""


@pytest.mark.parametrize(
    "options", [pytest.param(KINDS[k], id=k, marks=() if k in SOON else pytest.mark.long) for k in KINDS]
)
def test_a_training_has_no_fault(tmp_path, options):
    config = RunConfig(**TRAINED | options)
    assert not faults(train(config, runs=tmp_path, checkpoint_freq=0, progress=False).db_path)


@pytest.mark.long
@pytest.mark.parametrize("crashed_at", [7, 50])
def test_a_resumed_training_has_no_fault(tmp_path, monkeypatch, crashed_at):
    config, healthy = RunConfig(**TRAINED), Corpus.batch

    def crash(corpus: Corpus, step: int, **options: object) -> object:
        if step == crashed_at:
            raise ZeroDivisionError("a crash")
        return healthy(corpus, step, **options)

    monkeypatch.setattr(Corpus, "batch", crash)
    with pytest.raises(ZeroDivisionError):
        train(config, runs=tmp_path, checkpoint_freq=20, progress=False)
    monkeypatch.setattr(Corpus, "batch", healthy)
    (path,) = tmp_path.rglob("dynamics.db")
    assert {f.id for f in diagnose(loaded(path)[0]) if f.severity == WARNING} == {"unfinished"}
    train(config, runs=tmp_path, resume="must", progress=False)
    assert not faults(path)


@pytest.mark.parametrize("example", [topk_moe, lora], ids=lambda example: example.__name__)
def test_a_custom_mixture_has_no_fault(tmp_path, example):
    assert not faults(example.train(tmp_path / "dynamics.db", steps=60))


def test_the_examples_have_the_faults_that_they_show():
    folder = Path(__file__).parents[3] / "examples"
    assert not faults(folder / "as-is.db", folder / "positive-control.db")
    assert {fault.partition(":")[0] for fault in faults(folder / "zero-norms.db")} == {"zero_norms", "no_plan"}


def test_files_of_other_writers_lack_only_what_they_do_not_say(tmp_path):
    write_layers(tmp_path / "layers.db")
    values = bad_files.numbers(range(40), 12)
    bad_files.database(tmp_path / "columns.db", *bad_files.dynamics(values, bad_files.LAYERED))
    for name in ("layers.db", "columns.db"):
        assert {fault.partition(":")[0] for fault in faults(tmp_path / name)} == {"no_plan"}
