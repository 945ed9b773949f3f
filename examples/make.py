"""Train the example run files again with this project's trainer: `make examples`, about three minutes on two cores.

as-is.db             the documented experiment, merge: batch
per-example.db       one merge per sequence, three perturbed and three control experts
positive-control.db  frozen routing, and an artificial effect: bottom-tier gradients of the perturbed experts times 4
zero-norms.db        a training loop that logs after zero_grad(), the most common mistake
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import torch

from prismatic import DynamicsLogger, log_gradient_dynamics
from prismatic.train.config import RunConfig, load_config
from prismatic.train.corpus import Corpus
from prismatic.train.model import ByteLM
from prismatic.train.train import train

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parent / "experiments"
TRAINED = {"per-example": "per-example", "positive-control": "positive-control", "prismatic": "as-is"}  # longest first


def main() -> None:
    """Make the four files, two at a time."""
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        made = [
            pool.submit(train_example, EXPERIMENTS / f"{experiment}.yml", HERE / f"{name}.db")
            for experiment, name in TRAINED.items()
        ]
        for example in [*made, pool.submit(log_after_zero_grad, HERE / "zero-norms.db")]:
            example.result()
    for path in sorted(HERE.glob("*.db")):
        pack(path)
        print(f"{path.name:<24} {path.stat().st_size:>8} bytes")


def train_example(config: Path, target: Path) -> None:
    """Train an experiment and copy its run file."""
    with tempfile.TemporaryDirectory() as runs:
        shutil.copyfile(train(load_config(config), runs=Path(runs), progress=False).db_path, target)


def pack(path: Path) -> None:
    """Compact a file, because a repository keeps all versions of a binary file, and delete its lock file."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size = 4096")
        connection.execute("VACUUM")


def log_after_zero_grad(target: Path, steps: int = 200) -> None:
    """Run the documented manual loop with its calls in the wrong order; it records no facts in table `run`."""
    config = RunConfig(hidden_size=32, sequence_length=32)
    corpus = Corpus.load()
    torch.manual_seed(config.seed)
    model = ByteLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    target.unlink(missing_ok=True)
    with DynamicsLogger(target) as logger:
        for step in range(steps):
            batch = corpus.batch(step, batch_size=config.batch_size, length=config.sequence_length + 1, seed=0)
            model.loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            logger.log_dynamics(step, log_gradient_dynamics(model, step))


if __name__ == "__main__":
    main()
