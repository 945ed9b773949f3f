"""Logs that real trackers write of a training that knows nothing of Prismatic: two seeds, two experts, four steps.

`make clients` installs MLflow and neptune-exporter (https://github.com/neptune-ai/neptune-exporter) in build/trackers.
There, `bin/python -m tests.support.tracker_logs mlflow mlflow.db`, and `neptune neptune` with neptune-exporter/src on
PYTHONPATH, wrote the files in tests/prismatic/trackers/data; the database is compressed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from prismatic.contract.schema import TIERS

STEPS = [0, 10, 20, 30]
SEEDS = (1, 2)
PARAMETERS = {"lr": 0.1, "optimizer": "adamw"}


def logged(step: int, seed: int = 0) -> dict[str, float]:
    """Return the metrics of one step."""
    norms = {f"moe/expert.{i}/{tier}": 0.5 + i + seed + 0.01 * step for i in range(2) for tier in TIERS}
    return {**norms, "router/p0": 0.75, "router/p1": 0.25, "train/loss": 2.0 - step / 100, "acc": 0.1}


def by_mlflow(folder: Path) -> Path:
    """Write a store of MLflow and return its path."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = mlflow.create_experiment("mixture", artifact_location="artifacts")
    # MLflow would record the user, the script and its commit.
    tags = {"mlflow.user": "someone", "mlflow.source.name": "train.py", "mlflow.source.git.commit": ""}
    for seed in SEEDS:
        with mlflow.start_run(experiment_id=experiment, run_name=f"moe_s{seed}", tags=tags):
            mlflow.log_params({**PARAMETERS, "output_dir": f"out/{seed}"})
            for step in STEPS:
                mlflow.log_metrics(logged(step, seed), step=step)
            mlflow.log_metrics({"broken": float("nan"), "huge": float("inf")}, step=0)
    with mlflow.start_run(experiment_id=experiment, run_name="given up", tags=tags) as run:
        mlflow.log_metric("train/loss", 9.0, step=0)
    mlflow.delete_run(run.info.run_id)
    return folder / "mlflow.db"


def by_neptune(folder: Path) -> Path:
    """Write what neptune-exporter makes of the answers of Neptune 3, by its own code, and return the folder.

    Neptune's servers are closed. So the answers are tables as neptune-query documents them.
    """
    import pandas as pd
    from neptune_exporter.exporters.error_reporter import ErrorReporter
    from neptune_exporter.exporters.neptune3 import Neptune3Exporter
    from neptune_exporter.storage.parquet_writer import ParquetWriter

    exporter = Neptune3Exporter(ErrorReporter(path=folder / "errors.jsonl"))
    writer, when = ParquetWriter(base_path=folder), pd.Timestamp("2026-01-02T03:04:05", tz="UTC")
    for seed in SEEDS:
        run = f"moe_s{seed}"
        options = {"config/lr:float": 0.1, "config/optimizer:string": "adamw", "config/layers:int": 2}
        own = {"sys/name:string": "mixture", "sys/owner:string": "someone", "config/compiled:bool": False}
        parameters = pd.DataFrame({**options, **own}, index=pd.Index([run], name="run"))
        values = {
            (name, kind): [when if kind == "absolute_time" else logged(step, seed)[name] for step in STEPS]
            for name in logged(0)
            for kind in ("absolute_time", "value")
        }
        index = pd.MultiIndex.from_tuples([(run, float(step)) for step in STEPS], names=["run", "step"])
        tables = (
            exporter._convert_parameters_to_schema(parameters, "team/mixture"),
            exporter._convert_metrics_to_schema(pd.DataFrame(values, index=index), "team/mixture"),
        )
        with writer.run_writer("team/mixture", run) as part:
            for table in tables:
                part.save(exporter._record_batch_from_pandas(table))
    exporter.close()
    return folder


def by_trainer(folder: Path) -> Path:
    """Train a tiny model with Hugging Face's Trainer, for each seed, and return the folder of their outputs."""
    from torch import nn, tensor
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x, labels):
            return {"loss": (self.layer(x) - labels).square().mean()}

    class Norms(TrainerCallback):
        trainer: Trainer

        def __init__(self, seed: int):
            self.seed = seed

        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % 10 == 0:
                self.trainer.log(logged(state.global_step, self.seed))

    for seed in SEEDS:
        arguments = TrainingArguments(
            output_dir=str(folder / f"moe_s{seed}"),
            max_steps=30,
            save_steps=15,
            logging_steps=10,
            seed=seed,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        rows = [{"x": tensor([0.5]), "labels": tensor([1.0])}] * 16
        norms = Norms(seed)
        norms.trainer = Trainer(Model(), arguments, train_dataset=rows, callbacks=[norms])
        norms.trainer.train()
    return folder


def by_lightning(folder: Path) -> Path:
    """Train a tiny model with Lightning and its CSVLogger, for each seed, and return the folder of the logs."""
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.loggers import CSVLogger

    class Module(pl.LightningModule):
        def __init__(self, seed: int, optimizer: object, **options: object):
            super().__init__()
            self.save_hyperparameters()
            self.seed, self.layer = seed, torch.nn.Linear(1, 1)

        def training_step(self, batch, number):
            self.log_dict(logged(self.global_step, self.seed))
            return self.layer(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    for seed in SEEDS:
        trainer = pl.Trainer(
            max_steps=31,
            log_every_n_steps=1,
            logger=CSVLogger(folder, name=f"moe_s{seed}"),
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        shared = {"layers": 2}  # named twice, so that the YAML file has an alias
        options = {"lr": 0.1, "model": shared, "again": shared, "seed": seed}
        trainer.fit(Module(optimizer=torch.optim.SGD, **options), torch.utils.data.DataLoader(torch.ones(64, 1)))
    return folder


def _write(kind: str, target: Path) -> None:
    writers: dict[str, Callable[[Path], Path]] = {"mlflow": by_mlflow, "neptune": by_neptune}
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        found = writers[kind](Path(scratch))
        if kind == "mlflow":
            target.write_bytes(found.read_bytes())
            return
        for part in sorted(found.rglob("*.parquet")):
            (target / part.parent.name).mkdir(parents=True, exist_ok=True)
            (target / part.parent.name / part.name).write_bytes(part.read_bytes())


if __name__ == "__main__":
    _write(sys.argv[1], Path(sys.argv[2]).absolute())
