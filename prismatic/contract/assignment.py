"""The facts that a study assigns to a run which the user's own program trains: its options, the plan, the thresholds.

The study names a file by a variable of the environment, so that the program needs no line for it. Only a run file at
the assigned path gets these facts: a program may write others beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from prismatic.contract.thresholds import Thresholds
from prismatic.errors import ConfigError

VARIABLE = "PRISMATIC_RUN"


@dataclass(frozen=True)
class Assignment:
    """The facts of a planned run, and the thresholds to register in it; None: those of the program."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Thresholds | None = None

    def write(self, path: Path, run_file: Path) -> None:
        """Write the assignment of one run file, which `assignment_of` reads."""
        known = {"run_file": str(run_file.absolute()), "facts": dict(self.facts)}
        known["thresholds"] = asdict(self.thresholds or Thresholds())
        path.write_text(json.dumps(known, indent=2, default=str) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> tuple[Self, Path]:
        """Return an assignment and its run file. Raises ConfigError for a file that holds none."""
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            return cls(known["facts"], Thresholds().changed(known["thresholds"])), Path(known["run_file"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{VARIABLE}={path}: this is not the assignment of a run ({error}).") from error


def assignment_of(run_file: Path | None) -> Assignment:
    """Return what the study that started this process assigns to this run file; nothing if it assigns nothing.

    Raises ConfigError for a variable that names another file than an assignment.
    """
    path = os.environ.get(VARIABLE)
    if not path or run_file is None:
        return Assignment()
    assignment, assigned = Assignment.read(Path(path))
    return assignment if assigned == run_file.absolute() else Assignment()
