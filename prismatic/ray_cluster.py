"""A connection to a Ray cluster, for those that train on one and those that judge on one."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prismatic.errors import SweepError

ANSWER_SECONDS = 10.0
LOST_MACHINES = 3  # so often a task may lose its machine and start anew on another


@contextmanager
def connected(address: str | None, environment: Mapping[str, str]) -> Iterator[Any]:
    """The module `ray`, connected: to the address, `auto` or `local`; without one to where RAY_ADDRESS says, or here.

    environment: variables of every process there. A connection that is there already is used, and stays. Raises
    SweepError where Ray is not installed or cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise SweepError('ray is not installed; install it with: pip install "prismatic-dynamics[sweep]"') from None
    if ray.is_initialized():
        yield ray
        return
    _require_answer(address or os.environ.get("RAY_ADDRESS"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray about itself: nothing that who trains could mend
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {**environment}},
            )
    except (ConnectionError, ValueError, RuntimeError, OSError, ImportError) as error:
        where = address or os.environ.get("RAY_ADDRESS") or "this machine"
        raise SweepError(f"Ray at {where} cannot be reached: {str(error).strip() or type(error).__name__}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str | None) -> None:
    """Raise SweepError where nobody listens at HOST:PORT: Ray itself would wait for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise SweepError(f"Ray at {address} cannot be reached: nobody answers ({error}).") from error
