"""The trainers: the byte-level model of this project, the others that studies use, and a command of the user's own.

The option `trainer` names one. All are trained by `prismatic train`, so that a sweep or a study is the same for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prismatic.contract.study import Study
from prismatic.errors import ConfigError, LoggerError
from prismatic.runfile.database import Resume
from prismatic.runfile.lock import is_locked
from prismatic.train.config import RunConfig, overridden_options, validated
from prismatic.train.corpus import Corpus
from prismatic.train.experiment import Experiment
from prismatic.train.parallel import Parallel
from prismatic.train.programs import own_command, upcycled
from prismatic.train.train import TrainResult, finished_losses, require_run, train

BYTE_LM = "prismatic"


@dataclass(frozen=True)
class Trainer:
    """A trainer without checkpoints: its options, and its program, which writes a run file from the first step on."""

    options: type[Experiment]
    program: Callable[[Any, Corpus | None, Path, Study | None], None]


TRAINERS = {
    "upcycled": Trainer(upcycled.UpcycledConfig, upcycled.run),
    "command": Trainer(own_command.CommandConfig, own_command.run),
}


def load(path: Path | None, overrides: Iterable[str] = ()) -> Experiment:
    """Read the options of a run for the trainer that they name. Raises ConfigError, see `overridden_options`."""
    return parse(overridden_options(path, overrides), where=str(path or "--set"))


def parse(options: dict[str, Any], *, where: str = "config") -> Experiment:
    """Check options for the trainer that they name, and fill in defaults. Raises ConfigError."""
    name = options.get("trainer", BYTE_LM)
    if name == BYTE_LM:  # the name is not among its options, or the hashes of earlier runs would change
        return validated(RunConfig, {key: value for key, value in options.items() if key != "trainer"}, where=where)
    if not isinstance(name, str) or name not in TRAINERS:
        known = ", ".join([BYTE_LM, *TRAINERS])
        raise ConfigError(f"{where}: trainer = {name!r} is not known; the trainers are {known}.")
    return validated(TRAINERS[name].options, options, where=where)


def load_corpus(config: Experiment) -> Corpus | None:
    """Return the text of a run, None if it needs none. Raises CorpusError for a text that is too short."""
    if not config.text_length:
        return None
    corpus = Corpus.load(config.data)
    corpus.require(config.text_length)
    return corpus


def train_any(
    config: Experiment,
    *,
    runs: Path = Path("build/runs"),
    resume: Resume = "never",
    overwrite: bool = False,
    checkpoint_freq: int = 500,
    parallel: Parallel | None = None,
    study: Study | None = None,
) -> TrainResult:
    """Train a run by its trainer, see `train`. Without checkpoints, an interrupted run starts again at step 0.

    Raises the errors of `train`, and ConfigError for a command that fails or leaves no finished run file.
    """
    if isinstance(config, RunConfig):
        return train(
            config,
            runs=runs,
            resume=resume,
            overwrite=overwrite,
            checkpoint_freq=checkpoint_freq,
            parallel=parallel,
            study=study,
        )
    if parallel is not None:
        raise ConfigError("--parallel: only the byte-level model can be trained by several processes.")
    corpus = load_corpus(config)
    run_hash = config.run_hash(corpus.sha256 if corpus is not None else "")
    db_path = runs / run_hash / "dynamics.db"
    require_run(db_path, resume=resume, overwrite=overwrite)
    if overwrite or finished_losses(db_path) is None:
        if is_locked(db_path):  # the program would begin with another file
            raise LoggerError(f"{db_path}: the run is being trained by another process. Wait until it has ended.")
        db_path.parent.mkdir(parents=True, exist_ok=True)
        TRAINERS[config.facts()["trainer"]].program(config, corpus, db_path, study)
    losses = finished_losses(db_path)
    if losses is None:
        raise ConfigError(
            f"{db_path}: the training ended, but its run file is missing or not finished; see its output."
        )
    known = {name: losses.get(name, math.nan) for name in ("loss", "held_out_loss")}
    return TrainResult(run_hash, db_path, **known)
