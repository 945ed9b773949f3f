"""What a training run needs to go on where it was: weights, optimizer, schedule, random state, step."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, Protocol

import torch

from prismatic.errors import CheckpointError


class Stateful(Protocol):
    """A model, an optimizer, a schedule: what torch can save and load."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def save(path: Path, step: int, parts: dict[str, Stateful]) -> None:
    """Write a checkpoint of a run that has taken `step` steps; the one before stays until this one is whole."""
    state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    state |= {"step": step, "rng": torch.get_rng_state(), "cuda_rng": torch.cuda.get_rng_state_all()}
    unfinished = path.with_name(f"{path.name}.new")
    torch.save(state, unfinished)
    os.replace(unfinished, path)


def load(path: Path, parts: dict[str, Stateful], device: torch.device) -> int:
    """Put every part back as it was; returns the step to go on at.

    Raises CheckpointError for a file that is damaged or belongs to another model.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])
        return int(state["step"])
    except (RuntimeError, KeyError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: cannot be resumed from ({type(error).__name__}: {str(error)[:200]}); "
            "remove it to begin again at step 0."
        ) from error
