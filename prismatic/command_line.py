"""Running a command: its exit code, and its errors as one line on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from prismatic.errors import OutputClosed, PrismaticError
from prismatic.streams import standard_streams
from prismatic.text import printable

TRAINING_LIBRARIES = ("torch", "pydantic", "yaml")  # which the judging side is installed without
INTERRUPTED = 128 + 2  # as a shell reports a program that SIGINT ended


def exit_code(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; print a PrismaticError as one line on standard error and return its own.

    An interrupted command returns 130. Of several processes of one training, only the first prints.
    """
    with standard_streams():
        try:
            try:
                return command()
            finally:
                sys.stdout.flush()
        except OutputClosed as error:
            return error.exit_code
        except PrismaticError as error:
            message, code = f"error: {error}", error.exit_code
        except ModuleNotFoundError as error:
            if error.name not in TRAINING_LIBRARIES:
                raise
            remedy = 'Install the training side: pip install "prismatic-dynamics[train]", or -e ".[train]" in a clone.'
            message, code = f"error: this command needs {error.name}, which is not installed. {remedy}", 2
        except KeyboardInterrupt:
            message, code = "interrupted; what was logged is kept", INTERRUPTED
        if is_first_process():
            print("\n".join(printable(line, 5000) for line in message.splitlines()), file=sys.stderr)
        return code


def is_first_process() -> bool:
    """Return whether this is the first of the processes that torchrun started; only that one prints."""
    return os.environ.get("RANK", "0") == "0"
