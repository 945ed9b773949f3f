"""A next step that a judgement advises, with the command that does it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prismatic.contract.trainer_options import option_words
from validation.files.run_file import RunFile
from validation.files.sandbox.zip_worker import RUN_SUFFIXES
from validation.files.set_manifest import is_set

DEFAULT_RUNS = "build/runs"
INSTALLED_EXAMPLES = "/share/prismatic/examples/"
"""The end of the folder in which an installation has the examples, see pyproject.toml."""
HASH = re.compile(r"[0-9a-f]{9}")


@dataclass(frozen=True)
class Origin:
    """The place from which a command takes the options of a run, and its folder of runs."""

    config: str = ""
    """A file for `--config`, as seen from the working folder; empty if none holds the options of the run."""
    options: Mapping[str, str] | None = None
    """The options themselves, for `--set`, where there is no file."""
    runs: str = DEFAULT_RUNS
    """For `--runs`: the folder that has this run as HASH/dynamics.db."""


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
        return self._line(self.options)

    @property
    def runs(self) -> int:
        """The number of runs that the command trains."""
        return math.prod(len(_values(axis)) for axis in self.grid)

    def command(self, origin: Origin) -> str:
        """Return the whole command; empty if there is none. origin: of the options of the run."""
        if not self.line:
            return ""
        varied = {axis.partition("=")[0] for axis in self.grid}
        own = {name: value for name, value in (origin.options or {}).items() if name not in varied}
        own |= {name: value for name, _, value in (option.partition("=") for option in self.options)}
        words = [f"prismatic {'sweep' if self.grid else 'train'}"]
        words += [f"--config {shlex.quote(origin.config)}"] if origin.config else []
        words += [self._line([shlex.quote(f"{name}={value}") for name, value in own.items()])]
        words += [f"--runs {shlex.quote(origin.runs)}"] if origin.runs != DEFAULT_RUNS else []
        return " ".join(filter(None, words))

    def _line(self, options: Sequence[str]) -> str:
        given = f"--set {' '.join(options)}" if options else ""
        return " ".join(filter(None, [given, f"--grid {' '.join(self.grid)}" if self.grid else ""]))


def origin_of(file: RunFile, *, portable: bool) -> Origin:
    """Return the origin of a run: its file, or its options for one in a set, in an archive or from an upload.

    portable: for readers elsewhere. A path outside of the working folder is nobody's business then, unless it is that
    of an installed example, and what lies beside a set is not looked at.
    """
    path, run_hash = file.path.absolute(), str(file.facts.get("run_hash", ""))
    known_hash = bool(HASH.fullmatch(run_hash))
    if not _is_own_file(file):
        around = [] if portable or not is_set(file.path) or not known_hash else [*path.parents][1:3]
        runs = next((folder for folder in around if (folder / run_hash / "dynamics.db").is_file()), None)
        return Origin(options=option_words(file.facts), runs=DEFAULT_RUNS if runs is None else _seen_from_here(runs))
    if portable and not path.is_relative_to(Path.cwd()) and INSTALLED_EXAMPLES not in path.as_posix():
        return Origin(options=option_words(file.facts))
    in_runs = known_hash and path.parent.name == run_hash and path.name == "dynamics.db"
    return Origin(_seen_from_here(path), runs=_seen_from_here(path.parent.parent) if in_runs else DEFAULT_RUNS)


def _is_own_file(file: RunFile) -> bool:
    """Return whether the path is that of the run alone; an upload is known by its name, not by its path."""
    if is_set(file.path) or " in " in file.name or not file.name.endswith(RUN_SUFFIXES):
        return False
    return file.path.as_posix().endswith(file.name) or file.path.absolute().as_posix().endswith(file.name)


def _seen_from_here(path: Path) -> str:
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()


def _values(axis: str) -> Sequence[object]:
    """Return the values of an axis of a grid: "seed=0..5" or "perturbation_scale=0,1"."""
    values = axis.partition("=")[2]
    first, dots, last = values.partition("..")
    return range(int(first), int(last) + 1) if dots else values.split(",")
