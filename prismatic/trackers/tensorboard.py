"""TensorBoard: a folder with event files is a run, and so is every folder in it that has some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prismatic.errors import TrackerError
from prismatic.trackers.tracked import Tracked

EVENTS = "*tfevents*"


def read(source: Path) -> list[Tracked]:
    """The runs of a log folder, or the one run of an event file.

    Raises TrackerError where there is none, and ImportError where TensorBoard is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ImportError('event files need TensorBoard: pip install "prismatic-dynamics[trackers]"') from error

    folders = sorted({path.parent for path in source.rglob(EVENTS)}) if source.is_dir() else [source]
    runs = []
    for folder in folders:
        # 0 keeps every point: by default TensorBoard draws 10,000 of them by lot.
        events = EventAccumulator(str(folder), size_guidance={SCALARS: 0, TENSORS: 0}).Reload()
        run = Tracked(_name(folder, source), "tensorboard")
        for tag in events.Tags()["scalars"]:
            _take(run, tag, [(point.step, point.value, point.wall_time) for point in events.Scalars(tag)])
        # TensorFlow 2 and `new_style` writers keep scalars as tensors without dimensions.
        for tag in events.Tags()["tensors"]:
            points = [(p.step, make_ndarray(p.tensor_proto), p.wall_time) for p in events.Tensors(tag)]
            if all(value.shape == () and value.dtype.kind in "fiu" for _, value, _ in points):
                _take(run, tag, [(step, value.item(), wall) for step, value, wall in points])
        runs.append(run)
    if not any(run.metrics for run in runs):
        raise TrackerError(f"{source}: no event file here holds a scalar.")
    return [run for run in runs if run.metrics]


def _take(run: Tracked, tag: str, points: list[tuple[int, Any, float]]) -> None:
    for step, value, wall_time in points:
        run.add(step, {tag: value}, wall_time)


def _name(folder: Path, source: Path) -> str:
    return source.stem if folder == source else folder.relative_to(source).as_posix()
