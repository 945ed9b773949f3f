"""A next step that a judgement advises, with the command that does it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Advice:
    """A next step and its reason. It has no command if the trainer has no option for it."""

    id: str
    text: str
    options: tuple[str, ...] = ()
    """For `--set`."""
    grid: tuple[str, ...] = ()
    """For `prismatic sweep --grid`: the runs of a study."""
    run: str | None = None

    @property
    def line(self) -> str:
        """The options of the command, to follow `--config FILE`."""
        options = f"--set {' '.join(self.options)}" if self.options else ""
        return " ".join(filter(None, [options, f"--grid {' '.join(self.grid)}" if self.grid else ""]))

    @property
    def runs(self) -> int:
        """The number of runs that the command trains."""
        return math.prod(len(_values(axis)) for axis in self.grid)

    def command(self, config: str) -> str:
        """Return the whole command; empty if there is none. config: a file that holds the options of the run."""
        program = "sweep" if self.grid else "train"
        return f"prismatic {program} --config {shlex.quote(config)} {self.line}" if self.line else ""


def _values(axis: str) -> Sequence[object]:
    """Return the values of an axis of a grid: "seed=0..5" or "perturbation_scale=0,1"."""
    values = axis.partition("=")[2]
    first, dots, last = values.partition("..")
    return range(int(first), int(last) + 1) if dots else values.split(",")
