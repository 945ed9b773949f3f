"""The training loop of `prismatic train`: trains a config's model, logs to build/runs/{hash}/dynamics.db, resumes."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from prismatic.collectives import mean_over_processes, world
from prismatic.contract.schema import wide_experts
from prismatic.contract.study import Study
from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError, LoggerError
from prismatic.guard import log_failures
from prismatic.integrations.events import record_resumed
from prismatic.integrations.pytorch import DynamicsLoggerCallback
from prismatic.layer.router import load_balancing_loss
from prismatic.runfile.database import Resume
from prismatic.runfile.logger import DynamicsLogger
from prismatic.runfile.manage import read_facts
from prismatic.runfile.rank_zero import rank_zero_logger
from prismatic.terminal import console
from prismatic.train.checkpoint import Checkpoints
from prismatic.train.config import RunConfig
from prismatic.train.corpus import Corpus
from prismatic.train.model import ByteLM, next_byte_loss
from prismatic.train.parallel import Parallel, parallelize, process_group, share_routing
from prismatic.train.provenance import run_facts

HELD_OUT_BATCHES = 8


@dataclass(frozen=True)
class TrainResult:
    """The run's hash, file and losses in nats per byte."""

    run_hash: str
    db_path: Path
    loss: float
    held_out_loss: float


def train(
    config: RunConfig,
    *,
    runs: Path = Path("build/runs"),
    resume: Resume = "never",
    overwrite: bool = False,
    checkpoint_freq: int = 500,
    progress: bool = True,
    parallel: Parallel | None = None,
    study: Study | None = None,
) -> TrainResult:
    """Train to the end of `config.steps`.

    resume: "allow" continues an earlier run of the same options at its last checkpoint, "must" fails without one; a
    finished run is returned as it is. overwrite: start again instead. checkpoint_freq: 0 writes no checkpoints.
    parallel: how the processes that torchrun started share each batch; the run, its hash and its numbers are those of
    one process. study: the plan that the run belongs to, which a run registers that has no step yet.
    Raises LoggerError if the run exists and neither `resume` nor `overwrite` is given, or if it is being trained;
    ConfigError for a missing device or a batch that cannot be shared; CorpusError for text; CheckpointError for a
    checkpoint that cannot be used.
    """
    with process_group(parallel, config.device) as device:
        return _train(config, device, runs, resume, overwrite, checkpoint_freq, progress, parallel, study)


def _train(
    config: RunConfig,
    device: torch.device,
    runs: Path,
    resume: Resume,
    overwrite: bool,
    checkpoint_freq: int,
    progress: bool,
    parallel: Parallel | None,
    study: Study | None,
) -> TrainResult:
    processes = world()
    corpus = processes.all_or_raise(lambda: _corpus(config))
    run_hash = _run_hash(config, corpus)
    db_path = runs / run_hash / "dynamics.db"
    processes.from_rank_zero(lambda: require_run(db_path, resume=resume, overwrite=overwrite))
    done = processes.from_rank_zero(lambda: finished_losses(db_path))
    if not overwrite and done is not None and len(done) == 2:
        return TrainResult(run_hash, db_path, **done)
    resumes = processes.from_rank_zero(lambda: resume != "never" and not overwrite and db_path.exists())
    training = _Training.of(config, corpus, device, db_path.parent, checkpoint_freq, parallel)
    with rank_zero_logger(db_path, num_experts=wide_experts(len(config.roles)), overwrite=overwrite) as logger:
        callback = _callback(logger, config)
        if resumes:
            training.step = training.checkpoints.load()
        else:  # of a run whose file was removed
            training.checkpoints.remove()
        plan = study.facts() if study else {}
        callback.on_train_begin(training.model, **run_facts(config, run_hash, corpus), **plan)
        if resumes:
            record_resumed(logger, training.step)
        exit_state = "crashed"
        try:
            loss = training.run(callback, progress=progress and not processes.rank)
            held_out_loss = evaluate(training.model, config, corpus)
            logger.log_run({"loss": loss, "held_out_loss": held_out_loss})
            exit_state = "finished"
        except KeyboardInterrupt:
            exit_state = "interrupted"
            raise
        finally:
            logger.log_run({"exit_state": exit_state, "ended": time.time()})
    if not processes.from_rank_zero(lambda: logger.dropped):
        training.checkpoints.remove()
    return TrainResult(run_hash, db_path, loss, held_out_loss)


def _callback(logger: DynamicsLogger, config: RunConfig) -> DynamicsLoggerCallback:
    return DynamicsLoggerCallback(
        logger,
        log_freq=config.log_freq,
        probe_freq=config.probe_freq,
        pair_freq=config.pair_freq,
        weight_freq=config.weight_freq,
        histogram_freq=config.histogram_freq,
        last_step=config.steps - 1,
        thresholds=Thresholds().changed(config.thresholds),
    )


@dataclass
class _Training:
    """A model in training: the state that a checkpoint holds, and the loop."""

    config: RunConfig
    corpus: Corpus
    model: ByteLM
    parallel_model: nn.Module
    """The module to call in place of the model, so that all processes train it."""
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    checkpoints: Checkpoints
    checkpoint_freq: int
    step: int = 0

    @classmethod
    def of(
        cls,
        config: RunConfig,
        corpus: Corpus,
        device: torch.device,
        folder: Path,
        checkpoint_freq: int,
        parallel: Parallel | None,
    ) -> Self:
        torch.manual_seed(config.seed)  # the same in every process: equal models, equal draws
        model = ByteLM(config).to(device)
        share_routing(model)
        parallel_model = parallelize(model, parallel, device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (config.warmup_steps + 1)))
        checkpoints = Checkpoints(folder, model, optimizer, schedule, device)
        return cls(config, corpus, model, parallel_model, optimizer, schedule, checkpoints, checkpoint_freq)

    def run(self, callback: DynamicsLoggerCallback, *, progress: bool) -> float:
        """Take the remaining optimizer steps and return the last batch's loss."""
        loss = float("nan")
        with _progress_bar(progress) as bar:
            task = bar.add_task("loss -", total=self.config.steps, completed=self.step)
            while self.step < self.config.steps:
                loss = self._train_step(callback)
                self.step += 1
                if self.checkpoint_freq and self.step % self.checkpoint_freq == 0 and self.step < self.config.steps:
                    self._save(callback.logger)
                bar.update(task, completed=self.step, description=f"loss {loss:.3f}")
        return loss

    def _save(self, logger: DynamicsLogger) -> None:
        """Write a checkpoint if all earlier rows are in the file, so that a resumed run misses none."""
        with log_failures():
            if world().from_rank_zero(logger.flush):
                self.checkpoints.save(self.step)
            else:
                logger.event("no_checkpoint", "the rows before it could not be written", step=self.step)

    def _train_step(self, callback: DynamicsLoggerCallback) -> float:
        batch = _batch(self.config, self.corpus, self.step)
        loss = next_byte_loss(self.parallel_model, batch)
        self.optimizer.zero_grad()
        (loss + load_balancing_loss(self.model)).backward()
        loss_value = mean_over_processes(loss.detach()).item()
        rate = self.optimizer.param_groups[0]["lr"]
        probe = (self.model.loss, batch)
        callback.on_before_optimizer_step(self.model, self.step, probe=probe, loss=loss_value, learning_rate=rate)
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        return loss_value


def _progress_bar(wanted: bool) -> Progress:
    """Return a bar of the steps on stderr, drawn only on a terminal: loss, steps of all, time left."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps, {task.description}"), TimeRemainingColumn())
    return Progress(*columns, console=console(sys.stderr), disable=not (wanted and sys.stderr.isatty()))


@torch.no_grad()
def evaluate(model: ByteLM, config: RunConfig, corpus: Corpus) -> float:
    """Return the mean loss on held-out text, in nats per byte; every process reads its share."""
    losses = [model.loss(_batch(config, corpus, step, split="held_out")) for step in range(HELD_OUT_BATCHES)]
    return mean_over_processes(torch.stack(losses).mean()).item()


def _corpus(config: RunConfig) -> Corpus:
    """Return the text. Raises ConfigError for a batch that cannot be shared, and CorpusError for a text too short."""
    if config.batch_size % world().size:
        raise ConfigError(
            f"batch_size = {config.batch_size} cannot be shared evenly by {world().size} processes; "
            "choose a multiple, or start another number of processes."
        )
    corpus = Corpus.load(config.data)
    corpus.require(config.sequence_length + 1)  # now, because held-out text is first read after the last step
    return corpus


def _run_hash(config: RunConfig, corpus: Corpus) -> str:
    """Return the run's hash, on which all processes must agree before they share a folder and a batch."""
    run_hash = config.run_hash(corpus.sha256)
    if len(set(world().gather(run_hash))) > 1:
        raise ConfigError(f"process {world().rank} has other options or another text than process 0.")
    return run_hash


def _batch(config: RunConfig, corpus: Corpus, step: int, split: str = "train") -> torch.Tensor:
    """Return this process's share of a step's batch."""
    tokens = corpus.batch(
        step, batch_size=config.batch_size, length=config.sequence_length + 1, seed=config.seed, split=split
    )
    share = len(tokens) // world().size
    return tokens[world().rank * share :][:share].to(config.device)


def require_run(db_path: Path, *, resume: Resume, overwrite: bool) -> None:
    """Raise LoggerError for an existing run that is neither resumed nor replaced, or a missing one to resume."""
    if db_path.exists() and resume == "never" and not overwrite:
        raise LoggerError(
            f"{db_path}: a run of these options exists. Judge it with `prismatic check {db_path}`, train another seed "
            "with `--set seed=1`, continue it with `--resume allow`, or replace it with `--overwrite`."
        )
    if not db_path.exists() and resume == "must":
        raise LoggerError(f"{db_path}: there is no run of these options to resume; omit `--resume must`.")


def finished_losses(db_path: Path) -> dict[str, float] | None:
    """Return the losses that a finished run recorded; None for any other run."""
    facts = read_facts(db_path) if db_path.exists() else {}
    if facts.get("exit_state") != "finished":
        return None
    losses = {name: facts.get(name) for name in ("loss", "held_out_loss")}
    return {name: float(value) for name, value in losses.items() if isinstance(value, int | float)}
