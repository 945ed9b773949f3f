"""The errors that this package raises on purpose.

PrismaticError
├── ConfigError     an option with an unknown name or an invalid value
├── ModelError      a model, block or weight that a Prismatic router cannot use
├── CorpusError     training text that cannot be read or is too short
├── CheckpointError a checkpoint that a run cannot resume from
├── SweepError      an engine that is not installed or cannot be reached
├── StudyError      a study that would be judged by other thresholds or hypotheses than its runs registered
├── LoggerError     a dynamics.db that cannot be opened or holds something else
├── TrackerError    a file of another tracker that cannot be read or lacks the metrics of an expert
└── OutputError     standard output that cannot be written, such as a file on a full disk
    └── OutputClosed    the reader of standard output, such as `head`, has closed it
"""

from __future__ import annotations


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


class OutputError(PrismaticError):
    """Standard output cannot be written."""


class OutputClosed(OutputError):
    """The reader of standard output, such as `head`, has closed it: no error, and no verdict."""

    exit_code = 128 + 13
    """As a shell reports a program that SIGPIPE ended."""
