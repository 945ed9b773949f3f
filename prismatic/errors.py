"""The errors that this package raises on purpose, and the exit code of a command that raises one.

PrismaticError
├── ConfigError     an option with an unknown name or an invalid value
├── ModelError      a model, block or weight that a Prismatic router cannot use
├── CorpusError     training text that cannot be read or is too short
├── CheckpointError a checkpoint that a run cannot resume from
├── SweepError      an engine that is not installed or cannot be reached
├── StudyError      a study that would be judged by other thresholds or hypotheses than its runs registered
├── LoggerError     a dynamics.db that cannot be opened or holds something else
└── TrackerError    a file of another tracker that cannot be read or lacks the metrics of an expert
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable

from prismatic.text import printable

TRAINING_LIBRARIES = ("torch", "pydantic", "yaml")  # which the judging side is installed without


class PrismaticError(Exception):
    """The base of all errors that this package raises on purpose."""

    exit_code = 2
    """Of a command that ends with this error."""


class ConfigError(PrismaticError, ValueError):
    """An option has an unknown name or an invalid value."""


class ModelError(PrismaticError, ValueError):
    """A Prismatic router cannot use the model, block or weights."""


class CorpusError(PrismaticError, ValueError):
    """The training text cannot be read or is too short."""


class CheckpointError(PrismaticError, RuntimeError):
    """The checkpoint is damaged or belongs to another model."""


class SweepError(PrismaticError, RuntimeError):
    """The engine for training or judging many runs is not installed or cannot be reached."""


class StudyError(PrismaticError, ValueError):
    """The study would be judged by other thresholds or hypotheses than its runs registered before their first step."""

    exit_code = 5


class LoggerError(PrismaticError, OSError):
    """The run file cannot be opened, or the path holds something else."""


class TrackerError(PrismaticError, ValueError):
    """The files of another tracker cannot be read or hold no gradient norm of an expert."""


def exit_code(command: Callable[[Namespace], int], options: Namespace) -> int:
    """Run a command and return its exit code; print a PrismaticError as one line on standard error and return its own.

    An interrupted command returns 130. Of several processes of one training, only the first prints.
    """
    try:
        return command(options)
    except PrismaticError as error:
        message, code = f"error: {error}", error.exit_code
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_LIBRARIES:
            raise
        remedy = 'Install the training side: pip install "prismatic-dynamics[train]", or -e ".[train]" in a clone.'
        message, code = f"error: this command needs {error.name}, which is not installed. {remedy}", 2
    except KeyboardInterrupt:
        message, code = "interrupted; what was logged is kept", 130
    if is_first_process():
        print("\n".join(printable(line, 5000) for line in message.splitlines()), file=sys.stderr)
    return code


def is_first_process() -> bool:
    """Return whether this is the first of the processes that torchrun started; only that one prints."""
    return os.environ.get("RANK", "0") == "0"
