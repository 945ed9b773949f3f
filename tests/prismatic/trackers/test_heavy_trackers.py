"""Trackers that are too heavy for every run: `make clients` installs them in build/trackers and runs this."""

import os
import subprocess
from pathlib import Path

import pytest

from prismatic.trackers.formats import read_tracked
from tests.support.imported_runs import assert_is_what_was_logged, facts, imported
from tests.support.tracker_logs import SEEDS

ROOT = Path(__file__).parents[3]
INSTALLED = ROOT / "build" / "trackers"
EXPORTER = INSTALLED / "neptune-exporter" / "src"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (INSTALLED / "bin" / "python").exists(), reason="`make clients` installs these trackers"),
]


def written(tracker: str, target: Path) -> Path:
    """Write logs in the environment that has the tracker, and return their path."""
    environment = {**os.environ, "PYTHONPATH": str(EXPORTER), "PYTHONWARNINGS": "ignore"}
    command = [INSTALLED / "bin" / "python", "-m", "tests.support.tracker_logs", tracker, target]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=240)
    return target


@pytest.mark.parametrize("tracker", ["mlflow", "neptune"])
def test_what_the_tracker_itself_wrote(tmp_path: Path, tracker):
    source = written(tracker, tmp_path / ("tracking.db" if tracker == "mlflow" else "exports"))
    assert [run.name for run in read_tracked(source)] == [f"moe_s{seed}" for seed in SEEDS]
    path = imported(source, tmp_path, "--run", "moe_s2", "--facts", r"seed=_s(\d+)")
    assert_is_what_was_logged(path, seed=2)
    assert (facts(path)["imported_from"], facts(path)["config.seed"]) == (tracker, 2)
