"""The reader of `trainer_state.json`, in which the Trainer of Hugging Face keeps what it logged (`log_history`).

The file has no seed and no training arguments. They lie beside it as a pickle, which can run code and is not read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.tracked import TrackedRun, name_of, read_text

LIBRARIES: tuple[str, ...] = ()
STATE = "trainer_state.json"
CHECKPOINT = re.compile(r"checkpoint-[0-9]+")
OPTIONS = ("num_train_epochs", "train_batch_size", "max_steps")  # of the training, in the file
CLIPPED = (
    "the Trainer clips (max_grad_norm is 1.0 unless set) before it calls on_pre_optimizer_step: norms that were logged "
    "there are norms after clipping"
)


def read(source: Path, only: str | None = None) -> list[TrackedRun]:
    """Return the run of a trainer_state.json, or of each output folder in a folder by its last checkpoint.

    Raises TrackerError for any other file.
    """
    if not source.is_dir():
        return [_run(source, name_of(_output_folder(source), _output_folder(source)))]
    states: dict[Path, list[Path]] = {}
    for path in source.rglob(STATE):
        states.setdefault(_output_folder(path), []).append(path)
    return [_latest(paths, name_of(folder, source)) for folder, paths in sorted(states.items())]


def _output_folder(path: Path) -> Path:
    """Return the Trainer's output folder: a checkpoint's state lies one folder below it."""
    folder = path.parent
    return folder.parent if CHECKPOINT.fullmatch(folder.absolute().name) else folder


def _latest(paths: list[Path], name: str) -> TrackedRun:
    """Return the run by its state with the most steps, whose history holds those of the earlier checkpoints."""
    runs = [_run(path, name) for path in sorted(paths)]
    return max(runs, key=lambda run: max((step for values in run.metrics.values() for step in values), default=-1))


def _run(path: Path, name: str) -> TrackedRun:
    try:
        state = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise TrackerError(f"{path}: cannot be read as a state of the Trainer ({error}).") from error
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list):
        raise TrackerError(f"{path}: expected the Trainer's state, an object with the list log_history.")
    run = TrackedRun(name, "huggingface", notes=[CLIPPED], file=str(path))
    run.config = {option: state[option] for option in OPTIONS if isinstance(state.get(option), int | float)}
    planned = state.get("max_steps")
    run.planned_steps = planned if type(planned) is int and planned > 0 else None
    for number, row in enumerate(history, start=1):
        step = row.get("step") if isinstance(row, dict) else None
        if type(step) is int:
            run.add(step, _metrics(row))
        else:
            run.notes.append(f"entry {number} of log_history has no step")
    return run


def _metrics(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "step"}
