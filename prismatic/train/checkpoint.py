"""Checkpoints of a training run: weights, optimizer, schedule, random state and step, saved and loaded (--resume).

A checkpoint is a folder of torch.distributed.checkpoint: every process writes its part, and any number of processes can
resume from it. It holds pickles, which safe_load.py reads without running anything in them.
"""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from prismatic.collectives import world
from prismatic.errors import CheckpointError

DAMAGED = (RuntimeError, KeyError, ValueError, EOFError, OSError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, beside its run file: `checkpoint-{step}`, of which only the newest is kept.

    Every process of a training must make the same calls and see the same folder.
    """

    folder: Path
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    device: torch.device

    def save(self, step: int) -> None:
        """Write a checkpoint of a run that has taken `step` steps; the previous one stays until this one is complete.

        Raises CheckpointError if it cannot be written.
        """
        from torch.distributed.checkpoint.state_dict_saver import save

        unfinished = self.folder / f"checkpoint-{step}.new"
        world().from_rank_zero(lambda: shutil.rmtree(unfinished, ignore_errors=True))
        with _as_checkpoint_error(f"{unfinished}: cannot be written"):
            save(self._state(step), checkpoint_id=unfinished, **_process_options())
        world().from_rank_zero(lambda: self._replace(unfinished, step))

    def _replace(self, unfinished: Path, step: int) -> None:
        complete = self.folder / f"checkpoint-{step}"
        older = [path for path in self._all() if path != complete]
        shutil.rmtree(complete, ignore_errors=True)  # left by a rewound training
        os.replace(unfinished, complete)
        _remove(*older)

    def load(self) -> int:
        """Restore the state of the newest checkpoint and return its step; 0 if there is no checkpoint.

        Raises CheckpointError for a checkpoint that is damaged or belongs to another model.
        """
        found = world().from_rank_zero(lambda: max(self._all(), key=_step_of, default=None))
        if found is None:
            return 0
        with _as_checkpoint_error(f"{found}: cannot be resumed from", "; remove it to begin again at step 0."):
            return self._load_file(found) if found.is_file() else self._load_folder(found)

    def _load_folder(self, folder: Path) -> int:
        from torch.distributed.checkpoint.state_dict import set_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load

        from prismatic.train.safe_load import SafePlanner, SafeReader

        if not (folder / ".metadata").exists():
            raise ValueError("it has no .metadata, which is written last")
        reader = SafeReader(folder)
        reader.read_metadata()  # torch logs a traceback before it reports what is wrong with it
        state = self._state(0)
        load(state, storage_reader=reader, planner=SafePlanner(), **_process_options())
        model, optimizer = state.pop("model"), state.pop("optimizer")
        set_state_dict(self.model, self.optimizer, model_state_dict=model, optim_state_dict=optimizer)
        _set_random_state(state["rng"], state.get("cuda_rng"))
        return int(state["step"])

    def _load_file(self, file: Path) -> int:
        """Load the older format of one process: one file, with weights by name and optimizer states by place."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        state = torch.load(file, map_location="cpu", weights_only=True)
        names = [name for name, _ in self.model.named_parameters()]
        optimizer: dict[str, Any] = {
            "state": {names[place]: values for place, values in state["optimizer"]["state"].items()},
            "param_groups": [
                {**group, "params": [names[place] for place in group["params"]]}
                for group in state["optimizer"]["param_groups"]
            ],
        }
        full = StateDictOptions(full_state_dict=True)
        set_state_dict(
            self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=optimizer, options=full
        )
        self.schedule.load_state_dict(state["schedule"])
        _set_random_state(state["rng"], next(iter(state["cuda_rng"]), None))
        return int(state["step"])

    def remove(self) -> None:
        """Remove every checkpoint: of a run that is finished or starts again."""
        world().from_rank_zero(lambda: _remove(*self.folder.glob("checkpoint[-.]*")))

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("checkpoint[-.]*") if path.suffix != ".new"]

    def _state(self, step: int) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizer = get_state_dict(self.model, self.optimizer)
        state = {"model": model, "optimizer": optimizer, "schedule": self.schedule, "step": torch.tensor(step)}
        state["rng"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return state


def _set_random_state(rng: torch.Tensor, cuda_rng: torch.Tensor | None) -> None:
    """Restore the random state that one process wrote for all, as all of them draw the same numbers."""
    torch.set_rng_state(rng.cpu())
    if cuda_rng is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda_rng.cpu())


def _process_options() -> dict[str, Any]:
    """Return the arguments of save and load that name the process group."""
    return {"no_dist": True} if world().size == 1 else {"process_group": world().group}


def _step_of(path: Path) -> int:
    """Return the step in a checkpoint's name; -1 for the older one-file format, whose name has none."""
    step = path.name.removeprefix("checkpoint-")
    return int(step) if step.isdecimal() else -1


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def _as_checkpoint_error(problem: str, remedy: str = ".") -> Iterator[None]:
    """Raise an error of reading or writing, in this process or another one, as a CheckpointError.

    An interrupt of any process is raised as it is in all of them.
    """
    from torch.distributed.checkpoint.api import CheckpointException  # not an Exception; raised in every process

    try:
        with warnings.catch_warnings():
            # The warning only says that torch assumes a single process.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except CheckpointException as error:
        failures = [failure for failure, _ in error.failures.values()]
        for failure in failures:
            if isinstance(failure, KeyboardInterrupt | SystemExit):
                raise failure from error
        first = failures[0]
        raise CheckpointError(f"{problem} ({type(first).__name__}: {str(first)[:200]}){remedy}") from error
    except DAMAGED as error:
        raise CheckpointError(f"{problem} ({type(error).__name__}: {str(error)[:200]}){remedy}") from error
