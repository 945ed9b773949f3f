"""A run that was really trained, with a probe, and its file with changes made by SQL."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from prismatic.train.config import RunConfig
from prismatic.train.train import train
from tests.support.logged_runs import execute
from validation.analysis.load import load_runs
from validation.analysis.run import Run
from validation.files.read_files import read_files

TRAINED = {"hidden_size": 8, "num_layers": 2, "num_heads": 1, "sequence_length": 12, "batch_size": 4, "steps": 72}
TRAINED |= {"log_freq": 2, "probe_freq": 3, "merge": "example", "control_experts": 2, "weight_freq": 0}


def loaded(*paths: Path) -> list[Run]:
    """Return the runs of these files, read as any other run file."""
    files, rejected = read_files(paths)
    assert not rejected
    return load_runs(files)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run of two layers: a row every 2 steps, of isolated gradients every 6, and the last step."""
    config = RunConfig(**TRAINED)
    return train(config, runs=tmp_path_factory.mktemp("trained"), checkpoint_freq=0, progress=False).db_path


def changed_copy(original: Path, folder: Path, *statements: str) -> Run:
    """Return the run of a copy of a file, changed by SQL statements, and without checksums as in older files."""
    copy = Path(shutil.copy(original, folder / "dynamics.db"))
    execute(copy, "BEGIN", *statements, "DELETE FROM run WHERE key = 'checksums'", "COMMIT")
    return loaded(copy)[0]


@pytest.fixture
def edited(trained: Path, tmp_path: Path) -> Callable[..., Run]:
    """A function that changes a copy of the trained file by SQL statements, and returns its run."""
    return lambda *statements: changed_copy(trained, tmp_path, *statements)
