"""A connection to a Ray cluster, for sweeps that train there and for checks that judge there."""

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
MAX_RETRIES = 3  # how often Ray restarts a task on another machine after it lost one


@contextmanager
def connected(address: str | None, environment: Mapping[str, str]) -> Iterator[Any]:
    """Yield the module `ray`, connected to an address, `auto` or `local`; None means RAY_ADDRESS or this machine.

    environment: variables of all processes on the cluster. An existing connection is used and left open. Raises
    SweepError if Ray is not installed or cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise not_installed("ray") from None
    if ray.is_initialized():
        yield ray
        return
    _require_answer(address or os.environ.get("RAY_ADDRESS"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's warnings concern Ray's own code: a user can't act on them
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
    """Raise SweepError if HOST:PORT does not accept a connection. Ray itself would wait for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise SweepError(f"Ray at {address} cannot be reached: it does not answer ({error}).") from error


def not_installed(library: str) -> SweepError:
    """Return the error of an engine whose library is not installed."""
    return SweepError(f'{library} is not installed; install it with: pip install "prismatic-dynamics[sweep]"')
