"""The reader of TensorBoard's event files: each folder that contains event files is a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.tracked import TrackedRun

EVENTS = "*tfevents*"
LIBRARIES: tuple[str, ...] = (
    "tensorboard.backend.event_processing.event_accumulator",
    "tensorboard.compat.tensorflow_stub",
    "tensorboard.util.tensor_util",
)


def read(source: Path, only: str | None = None) -> list[TrackedRun]:
    """Return the runs of a log folder, or the run of an event file.

    Raises TrackerError if there is no run, and ImportError if TensorBoard is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ImportError('event files need TensorBoard: pip install "prismatic-dynamics[trackers]"') from error

    folders = sorted({path.parent for path in source.rglob(EVENTS)}) if source.is_dir() else [source]
    runs = []
    for folder in folders:
        # 0 keeps all points: by default TensorBoard samples 10,000 of them.
        events = EventAccumulator(str(folder), size_guidance={SCALARS: 0, TENSORS: 0}).Reload()
        run = TrackedRun(_name(folder, source), "tensorboard", file=str(folder))
        for tag in events.Tags()["scalars"]:
            _add_points(run, tag, [(point.step, point.value, point.wall_time) for point in events.Scalars(tag)])
        # TensorFlow 2 and `new_style` writers store scalars as tensors without dimensions.
        for tag in events.Tags()["tensors"]:
            points = [(p.step, make_ndarray(p.tensor_proto), p.wall_time) for p in events.Tensors(tag)]
            if all(value.shape == () and value.dtype.kind in "fiu" for _, value, _ in points):
                _add_points(run, tag, [(step, value.item(), wall) for step, value, wall in points])
        runs.append(run)
    if not any(run.metrics for run in runs):
        raise TrackerError(f"{source}: its event files hold no scalar.")
    return [run for run in runs if run.metrics]


def _add_points(run: TrackedRun, tag: str, points: list[tuple[int, Any, float]]) -> None:
    for step, value, wall_time in points:
        run.add(step, {tag: value}, wall_time)


def _name(folder: Path, source: Path) -> str:
    return source.stem if folder == source else folder.relative_to(source).as_posix()
