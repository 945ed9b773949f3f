"""Hook: a function that a module of others calls, which no copy of that module takes along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch


def do_nothing(*_: Any) -> None:
    """Do nothing: the hook of a copy."""


class Hook:
    """A function to register as a hook of a module.

    A copy of the module (`copy.deepcopy`, `pickle`, `torch.save`) has a hook that does nothing: it must not count into
    the measurement of the original, and a function within a function cannot be pickled. Compiled models call it
    outside of their graphs.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    @torch.compiler.disable
    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> tuple[type[Self], tuple[Callable[..., Any]]]:
        return type(self), (do_nothing,)
