"""Real trainings of the benchmarks: small byte-level models, each in a process of its own; finished runs are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import ROOT

sys.path.insert(0, str(ROOT))

from prismatic.runfile.manage import summarize
from prismatic.train.config import RunConfig
from prismatic.train.corpus import Corpus

BASE = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 2,
    "sequence_length": 32,
    "batch_size": 8,
    "steps": 360,
    "learning_rate": 0.003,
    "log_freq": 2,
    "probe_freq": 6,
    "merge": "example",
    "num_experts": 3,
    "control_experts": 2,
    "perturbation_scale": 0.001,
    "weight_freq": 0,
}


def train_all(configs: Sequence[RunConfig], folder: Path, *, jobs: int, processes: int = 1) -> list[Path]:
    """Return the run files of these configs, trained in a folder, some at a time; without jobs, the finished ones."""
    if not jobs:
        return [path for path in (_path(config, folder) for config in configs) if _is_finished(path)]
    with ThreadPoolExecutor(jobs) as pool:
        return [*pool.map(lambda config: _trained(config, folder, processes), configs)]


def _path(config: RunConfig, folder: Path) -> Path:
    return folder / config.run_hash(Corpus.load(config.data).sha256) / "dynamics.db"


def _is_finished(path: Path) -> bool:
    return path.exists() and summarize(path).status == "finished"


def _trained(config: RunConfig, folder: Path, processes: int) -> Path:
    path = _path(config, folder)
    if not _is_finished(path):
        done = subprocess.run(
            [*_command(config, folder, processes)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{config.facts()}: {done.stderr[-2000:]}")
    return path


def _command(config: RunConfig, folder: Path, processes: int) -> Iterator[str]:
    yield sys.executable
    if processes > 1:
        yield from ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
    yield from ("-m", "prismatic", "train", "--config", os.devnull, "--runs", str(folder))
    yield from ("--checkpoint-freq", "0", "--resume", "allow")
    yield from ("--parallel", "ddp") if processes > 1 else ()
    yield from ("--data", str(config.data)) if config.data else ()
    yield "--set"
    yield from (f"{name}={value}" for name, value in config.facts().items() if value is not None and name != "data")
