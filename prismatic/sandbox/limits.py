"""The limits that a worker sets on itself before it opens anything; standard library only."""

from __future__ import annotations

from collections.abc import Mapping


def set_limits(most: Mapping[str, int]) -> None:
    """Set limits of this process for good, by their names without RLIMIT_, as far as the system has them.

    Windows has none, and macOS cannot lower AS: there the parent's timer and its own counts remain.
    """
    try:
        import resource
    except ImportError:
        return
    for name, value in most.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        except (AttributeError, ValueError, OSError):
            continue


def allow_seconds(seconds: float) -> None:
    """Let the kernel end this process if it takes more than so many further seconds of processor time."""
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(used.ru_utime + used.ru_stime + seconds) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    except (ImportError, ValueError, OSError):
        return
