"""Our metrics in the tracker that a user already has: TensorBoard, W&B, trackio, MLflow, or any function.

A tracker may be slow, or hang on a network, and belongs to neither training nor the run file. So a thread of its own
hands it the metrics, and what it cannot take is counted.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from prismatic.errors import ConfigError
from prismatic.runfile.records import Measured, Shapes

PREFIX = "prismatic/"
MAX_WAITING = 10_000  # steps; a tracker this far behind loses further ones
CLOSE_SECONDS = 5.0  # how long the last steps may take; a tracker that hangs must not keep a program from ending

Tracker = Callable[[int, dict[str, float]], object]
"""Takes a step and the metrics of this step by name."""


def tracker_of(target: Any) -> Tracker:
    """The way to log to whatever `target` is, told by its methods:

    `add_scalar(name, value, step)`: a SummaryWriter. `define_metric` and `log`: a run of W&B, which gets a step axis of
    its own, because its counter is the user's. `log_metrics(metrics, step)`: a logger of Lightning, MLflow or Comet.
    `log(metrics, step)`: trackio, or a tracker of Accelerate. Anything else that can be called: target(step, metrics).
    Raises ConfigError for what is none of these, or refuses its axis.
    """
    if hasattr(target, "add_scalar"):
        return lambda step, metrics: [target.add_scalar(name, value, step) for name, value in metrics.items()]
    if hasattr(target, "define_metric") and hasattr(target, "log"):
        own_step = f"{PREFIX}step"
        try:
            target.define_metric(f"{PREFIX}*", step_metric=own_step)
        except Exception as error:
            raise ConfigError(
                f"mirror = {target!r} cannot be logged to ({error}); give it after wandb.init()."
            ) from error
        return lambda step, metrics: target.log({**metrics, own_step: step})
    for method in ("log_metrics", "log"):
        if hasattr(target, method):
            log = getattr(target, method)
            return lambda step, metrics: log(metrics, step=step)
    if callable(target):
        return lambda step, metrics: target(step, metrics)
    raise ConfigError(
        f"mirror = {target!r} is no tracker; expected a SummaryWriter, a run of wandb or trackio, something with "
        "log_metrics(metrics, step), or a function of (step, metrics)."
    )


class Mirror:
    """Hands each logged step to a tracker from a thread of its own. Made and called by the thread that logs.

    `sayings`: what went wrong for the first time, for that thread to record.
    """

    def __init__(self, tracker: Tracker):
        self.sayings: SimpleQueue[str] = SimpleQueue()
        self.lost: Counter[str] = Counter()
        """Why steps did not reach the tracker, and how many."""
        self._track = tracker
        self._shapes = Shapes()
        self._queue: SimpleQueue[Measured | None] = SimpleQueue()
        self._taken, self._done = 0, 0
        self._thread = threading.Thread(target=self._run, name="prismatic mirror", daemon=True)
        self._thread.start()

    def put(self, record: Measured) -> None:
        """Take a step in; returns at once."""
        if self._taken - self._done >= MAX_WAITING:
            self._lose("the tracker is too slow")
            return
        self._taken += 1
        self._queue.put(record)

    def end(self) -> None:
        """Let the thread end when it has handed over what is on its way; waits for nothing."""
        self._queue.put(None)

    def close(self) -> dict[str, int]:
        """Wait for what is on its way, for CLOSE_SECONDS at most; why steps were lost, and how many."""
        self.end()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._lose("the tracker hangs", self._taken - self._done)
        return dict(self.lost)

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            try:
                self._track(record.step, self._metrics(record))
            except BaseException as error:  # SystemExit of a tracker ends its own thread at most
                self._lose(f"{type(error).__name__}: {error}"[:300])
            self._done += 1

    def _metrics(self, record: Measured) -> dict[str, float]:
        """Every number of the step but the clock's, by its column's name in `dynamics`."""
        columns = self._shapes.of(record)
        places = columns.places or range(len(columns.names))
        values = zip(columns.names, (record.values[place] for place in places), strict=True)
        return {f"{PREFIX}{name}": value for name, value in values if name != "wall_time" and _is_number(value)}

    def _lose(self, why: str, count: int = 1) -> None:
        if why not in self.lost:
            self.sayings.put(why)
        self.lost[why] += count


def _is_number(value: object) -> bool:
    """NaN is one, and shown as a gap; None and what was refused are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
