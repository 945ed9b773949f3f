"""Train the byte-level language model of a config and log its gradient dynamics to build/runs/{hash}/dynamics.db."""

from __future__ import annotations

import platform
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

import prismatic
from prismatic.callbacks import DynamicsLoggerCallback
from prismatic.config import RunConfig
from prismatic.corpus import Corpus
from prismatic.errors import ConfigError, LoggerError
from prismatic.logger import DynamicsLogger
from prismatic.model import ByteLM
from prismatic.router import load_balancing_loss

HELD_OUT_BATCHES = 8


@dataclass(frozen=True)
class TrainResult:
    """Where the run is, and its losses in nats per byte."""

    run_hash: str
    db_path: Path
    loss: float
    held_out_loss: float


def train(
    config: RunConfig, *, runs: Path = Path("build/runs"), overwrite: bool = False, progress: bool = True
) -> TrainResult:
    """Train to the end of `config.steps`.

    Raises LoggerError if this experiment was run before and overwrite is False, ConfigError for a device that is not
    there, CorpusError for text that cannot be used.
    """
    device = _device(config)
    corpus = Corpus.load(config.data)
    corpus.require(config.sequence_length + 1)  # now, not after the last step, when held-out text is first read
    run_hash = config.run_hash(corpus.sha256)
    db_path = _fresh(runs / run_hash / "dynamics.db", overwrite=overwrite)
    torch.manual_seed(config.seed)
    model = ByteLM(config).to(device)
    with DynamicsLogger(db_path, num_experts=len(config.roles)) as logger:
        callback = DynamicsLoggerCallback(
            logger,
            log_freq=config.log_freq,
            probe_freq=config.probe_freq,
            weight_freq=config.weight_freq,
            histogram_freq=config.histogram_freq,
            last_step=config.steps - 1,
        )
        callback.on_train_begin(model, **run_facts(config, run_hash, corpus))
        exit_state = "crashed"
        try:
            loss = _loop(model, config, corpus, callback, progress=progress)
            exit_state = "finished"
        except KeyboardInterrupt:
            exit_state = "interrupted"
            raise
        finally:
            logger.log_run({"exit_state": exit_state, "ended": time.time()})
        held_out_loss = evaluate(model, config, corpus)
        logger.log_run({"held_out_loss": held_out_loss})
    return TrainResult(run_hash, db_path, loss, held_out_loss)


def _loop(
    model: ByteLM, config: RunConfig, corpus: Corpus, callback: DynamicsLoggerCallback, *, progress: bool
) -> float:
    """Every optimizer step of the run; returns the last batch's loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (config.warmup_steps + 1)))
    loss_value = float("nan")
    # tqdm draws on stderr and only where a person is looking.
    with tqdm(range(config.steps), unit="step", disable=None if progress else True) as bar:
        for step in bar:
            batch = _batch(config, corpus, step)
            loss = model.loss(batch)
            optimizer.zero_grad()
            (loss + load_balancing_loss(model)).backward()
            loss_value = loss.item()
            rate = optimizer.param_groups[0]["lr"]
            callback.on_before_optimizer_step(
                model, step, probe=(model.loss, batch), loss=loss_value, learning_rate=rate
            )
            if config.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss_value:.3f}", refresh=False)
    return loss_value


@torch.no_grad()
def evaluate(model: ByteLM, config: RunConfig, corpus: Corpus) -> float:
    """Mean loss on text that was held out, in nats per byte."""
    losses = [model.loss(_batch(config, corpus, step, split="held_out")) for step in range(HELD_OUT_BATCHES)]
    return torch.stack(losses).mean().item()


def _batch(config: RunConfig, corpus: Corpus, step: int, split: str = "train") -> torch.Tensor:
    tokens = corpus.batch(
        step, batch_size=config.batch_size, length=config.sequence_length + 1, seed=config.seed, split=split
    )
    return tokens.to(config.device)


def _device(config: RunConfig) -> torch.device:
    try:
        return torch.empty(0, device=config.device).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device = {config.device!r} cannot be used here ({error}); `device: cpu` always works."
        ) from error


def _fresh(db_path: Path, *, overwrite: bool) -> Path:
    """The path, without a file on it."""
    if db_path.exists() and not overwrite:
        raise LoggerError(
            f"{db_path}: this experiment was run before with the same options. Judge it with "
            f"`python -m validation check {db_path}`, run another seed with `--set seed=1`, or replace it with "
            "`--overwrite`."
        )
    for file in (db_path, db_path.with_name(f"{db_path.name}-journal")):
        file.unlink(missing_ok=True)
    return db_path


def run_facts(config: RunConfig, run_hash: str, corpus: Corpus) -> dict[str, Any]:
    """What reproduces a run, for the `run` table."""
    commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {
        **{f"config.{name}": value for name, value in config.facts().items()},
        "run_hash": run_hash,
        "planned_steps": config.steps,
        "warmup_steps": config.warmup_steps,
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        # Routing on the mean of a whole sequence, or of a whole batch, lets a position see what comes after it.
        "causal": config.routing == "frozen" or (config.router_input == "first" and config.merge == "example"),
        "hook": "plain loop",
        "precision": "float32",
        "world_size": 1,
        "git_commit": commit,
        "git_dirty": None if dirty is None else bool(dirty),
        "prismatic": prismatic.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "device": config.device,
        "started": time.time(),
        "exit_state": "running",
    }


def _git(*arguments: str) -> str | None:
    """What git answers about this source tree; None where there is no git or no repository."""
    try:
        here = Path(__file__).parent
        answer = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
