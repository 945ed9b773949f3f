"""The guard around each part of a page: an error of this program on one run leaves the other parts and runs alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import streamlit as st

from prismatic.errors import PrismaticError
from validation.files.errors import RunFileError
from validation.judgement.guard import report

P = ParamSpec("P")


def guarded(show: Callable[P, None]) -> Callable[P, None]:
    """Return a function that shows a part of a page, or in its place the error of this program that it raises.

    Raises PrismaticError and RunFileError, which are meant, and what ends or reruns the page.
    """

    @functools.wraps(show)
    def shown(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            show(*args, **kwargs)
        except (PrismaticError, RunFileError, MemoryError):
            raise
        except Exception as error:  # a run that breaks our code must not take the page down
            words = report(error)
            st.error("This part of the page cannot be shown; the others can, and so can the other runs.")
            st.text(
                f"Seen: {words}.\nCause: this is a fault of prismatic, or a kind of file that it does not know.\n"
                "Fix: report it with the file."
            )

    return shown
