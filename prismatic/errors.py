"""The errors that a user of this package can cause, and so may want to catch.

PrismaticError
├── ConfigError     an option with an unknown name or a value that is not allowed
├── ModelError      a model, block or weight that a Prismatic router cannot work with
├── CorpusError     training text that cannot be read or is too short
├── CheckpointError a checkpoint that cannot be resumed from
├── SweepError      an engine for many runs that is not there or cannot be reached
├── LoggerError     a dynamics.db that cannot be created or belongs to something else
└── TrackerError    a file of another tracker that cannot be read, or holds nothing that is asked for
"""


class PrismaticError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(PrismaticError, ValueError):
    """An option has an unknown name or a value that is not allowed."""


class ModelError(PrismaticError, ValueError):
    """The model, block or weights cannot carry a Prismatic router."""


class CorpusError(PrismaticError, ValueError):
    """The training text cannot be read or is too short."""


class CheckpointError(PrismaticError, RuntimeError):
    """The checkpoint is damaged, or belongs to another model."""


class SweepError(PrismaticError, RuntimeError):
    """The engine that many runs are to be trained or judged on is not installed, or cannot be reached."""


class LoggerError(PrismaticError, OSError):
    """The run file cannot be created, or the path holds something else."""


class TrackerError(PrismaticError, ValueError):
    """The files of another tracker cannot be read, or hold no gradient norm of an expert."""
