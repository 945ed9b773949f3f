"""The mirror: also sends the metrics to TensorBoard, W&B, trackio, MLflow, Lightning's loggers, or any function.

A tracker may be slow or hang on a network, and must delay neither the training nor the run file. So a separate thread
calls it, and steps that it does not take are counted.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from prismatic.errors import ConfigError
from prismatic.runfile.records import BEFORE_SCALARS, ColumnCache, StepRecord

PREFIX = "prismatic/"
MAX_WAITING = 10_000  # steps in the queue; further ones are lost
CLOSE_SECONDS = 5.0  # how long close() waits for a tracker, which must not keep a program from ending

Tracker = Callable[[int, dict[str, float]], object]
"""A function of a step and its metrics by name."""


def as_tracker(target: Any) -> Tracker:
    """Return a function that logs to `target`, which is recognized by its methods:

    `add_scalar(name, value, step)`: a SummaryWriter. `define_metric` and `log`: a run of W&B, which gets a separate
    step axis, because the user's code advances its counter. `log_metrics(metrics, step)`: a logger of Lightning, MLflow
    or Comet. `log(metrics, step)`: trackio, or a tracker of Accelerate. Any other callable: target(step, metrics).
    Raises ConfigError for anything else, and for a W&B run that refuses the axis.
    """
    if hasattr(target, "add_scalar"):
        return lambda step, metrics: [target.add_scalar(name, value, step) for name, value in metrics.items()]
    if hasattr(target, "define_metric") and hasattr(target, "log"):
        own_step = f"{PREFIX}step"
        try:
            target.define_metric(f"{PREFIX}*", step_metric=own_step)
        except Exception as error:
            raise ConfigError(
                f"mirror = {target!r} cannot be logged to ({error}); pass it after wandb.init()."
            ) from error
        return lambda step, metrics: target.log({**metrics, own_step: step})
    for method in ("log_metrics", "log"):
        if hasattr(target, method):
            log = getattr(target, method)
            return lambda step, metrics: log(metrics, step=step)
    if callable(target):
        return lambda step, metrics: target(step, metrics)
    raise ConfigError(
        f"mirror = {target!r} is not a tracker; expected a SummaryWriter, a run of wandb or trackio, an object with "
        "log_metrics(metrics, step), or a function of (step, metrics)."
    )


class Mirror:
    """Sends each logged step to a tracker from a separate thread.

    `warnings`: the first failure of each kind, for the logging thread to record.
    """

    def __init__(self, tracker: Tracker):
        self.warnings: SimpleQueue[str] = SimpleQueue()
        self.lost: Counter[str] = Counter()
        """The number of steps that did not reach the tracker, by reason."""
        self._track = tracker
        self._column_cache = ColumnCache()
        self._queue: SimpleQueue[StepRecord | None] = SimpleQueue()
        self._accepted, self._released = 0, 0
        self._thread = threading.Thread(target=self._run, name="prismatic mirror", daemon=True)
        self._thread.start()

    def put(self, record: StepRecord) -> None:
        """Queue a step, without waiting."""
        if self._accepted - self._released >= MAX_WAITING:
            self._lose("the tracker is too slow")
            return
        self._accepted += 1
        self._queue.put(record)

    def end(self) -> None:
        """Let the thread end after the queued steps, without waiting for it."""
        self._queue.put(None)

    def close(self) -> dict[str, int]:
        """Wait up to CLOSE_SECONDS for the queued steps; return the number of lost steps by reason."""
        self.end()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._lose("the tracker hangs", self._accepted - self._released)
        return dict(self.lost)

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            try:
                self._track(record.step, self._metrics(record))
            except BaseException as error:  # even a SystemExit of the tracker must not end this thread
                self._lose(f"{type(error).__name__}: {error}"[:300])
            self._released += 1

    def _metrics(self, record: StepRecord) -> dict[str, float]:
        """Return all numbers of the step except `wall_time`, by their columns' names with the prefix."""
        columns = self._column_cache.of(record)
        positions = columns.positions or range(BEFORE_SCALARS, BEFORE_SCALARS + len(columns.names))
        values = zip(columns.names, (record.row[index] for index in positions), strict=True)
        return {f"{PREFIX}{name}": value for name, value in values if name != "wall_time" and _is_number(value)}

    def _lose(self, reason: str, count: int = 1) -> None:
        if reason not in self.lost:
            self.warnings.put(reason)
        self.lost[reason] += count


def _is_number(value: object) -> bool:
    """Return whether a value can be sent. NaN can, and is shown as a gap; None and refused values cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool)
