"""Train the example run files again with this project's trainer: `make examples`, about fifteen minutes on two cores.

as-is.db             the documented experiment, merge: batch
per-example.db       one merge per sequence, three perturbed and three control experts
positive-control.db  frozen routing, and an artificial effect: bottom-tier gradients of the perturbed experts times 4
zero-norms.db        a training loop that logs after zero_grad(), the most common mistake
upcycled-mixtral.db  a tiny Llama upcycled into a Mixtral, by the lines of docs/upcycling.md
study/               a sweep over three scales and six seeds with control experts and sham twins, as one set
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import torch

from examples import pictures
from prismatic import DynamicsLogger, log_gradient_dynamics
from prismatic.train.config import RunConfig, load_config
from prismatic.train.corpus import Corpus
from prismatic.train.model import ByteLM
from prismatic.train.train import train
from validation.files.parquet_set import write_set
from validation.files.run_file import RUN_TABLES, RunFile
from validation.files.sources import read_sources

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parent / "experiments"
UPCYCLING = HERE.parent / "docs" / "upcycling.md"
TRAINED = {"per-example": "per-example", "positive-control": "positive-control", "prismatic": "as-is"}  # longest first
SWEEP = "sweep --config experiments/study.yml --grid perturbation_scale=0,0.5,1,2 seed=0..5 --checkpoint-freq 0"


def main() -> None:
    """Make the five files, two at a time, then the study, and draw all of them."""
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        made = [
            pool.submit(train_example, EXPERIMENTS / f"{experiment}.yml", HERE / f"{name}.db")
            for experiment, name in TRAINED.items()
        ]
        made.append(pool.submit(upcycle_example, HERE / "upcycled-mixtral.db"))
        for example in [*made, pool.submit(log_after_zero_grad, HERE / "zero-norms.db")]:
            example.result()
    for path in sorted(HERE.glob("*.db")):
        pack(path)
        print(f"{path.name:<24} {path.stat().st_size:>8} bytes")
    with tempfile.TemporaryDirectory() as runs:
        train_study(Path(runs))
        pack_study(Path(runs), HERE / "study")
    pictures.main()


def train_study(runs: Path) -> None:
    """Train the 24 runs of the study, two at a time."""
    command = [sys.executable, "-m", "prismatic", *SWEEP.split(), "--runs", str(runs), "--workers", "2"]
    subprocess.run(command, cwd=HERE.parent, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)


def pack_study(runs: Path, target: Path) -> None:
    """Write the runs as one set with numbers of single precision, which halves it; its verdict stays the same."""
    files, _ = read_sources([runs])
    shutil.rmtree(target, ignore_errors=True)
    write_set(map(in_single_precision, sorted(files, key=lambda run: run.id)), target, by_scale=False)


def in_single_precision(run: RunFile) -> RunFile:
    """Return the run with the seven digits of single precision in every number but times."""
    tables = {name: rounded(getattr(run, name)) for name in RUN_TABLES}
    return replace(run, wide=rounded(run.wide), **tables)


def rounded(table: pa.Table) -> pa.Table:
    """Return the table with measured numbers of single precision."""
    for place, column in enumerate(table.schema):
        if pa.types.is_float64(column.type) and column.name != "wall_time":
            single = table[column.name].cast(pa.float32(), safe=False)
            table = table.set_column(place, column, single.cast(pa.float64()))
    return table


def train_example(config: Path, target: Path) -> None:
    """Train an experiment and copy its run file."""
    with tempfile.TemporaryDirectory() as runs:
        shutil.copyfile(train(load_config(config), runs=Path(runs), progress=False).db_path, target)


def upcycle_example(target: Path) -> None:
    """Run the lines of docs/upcycling.md and copy the run file that they write."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(run_upcycling_page(Path(folder)), target)


def run_upcycling_page(folder: Path) -> Path:
    """Run the first Python block of docs/upcycling.md in a folder, by one thread; return the run file."""
    (code,) = re.findall(r"```python\n(.*?)```", UPCYCLING.read_text(), re.DOTALL)[:1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)
    return folder / "upcycled" / "dynamics.db"


def pack(path: Path) -> None:
    """Compact a file, because a repository keeps all versions of a binary file."""
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
