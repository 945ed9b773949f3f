"""Helpers of the benchmarks that compare other programs (peers): environments, skipped peers, memory, goals."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"

# Versions have close bounds if a benchmark reads the peer's own file format.
TRACKERS = {
    "TensorBoard": "tensorboard>=2.19,<3",
    "MLflow": "mlflow>=3.17,<4",
    "trackio": "trackio>=0.43,<0.44",
    "wandb offline": "wandb>=0.31,<0.32",
}
QUIET = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}

Limit = tuple[str, float, float]  # the goal, the figure, the limit


class Skipped(Exception):
    """A peer cannot be installed or run; the message is the reason."""


@dataclass
class Skips:
    """The skipped peers with reasons, and the versions of the others; the base of each report."""

    skipped: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def skip(self, name: str, reason: str) -> None:
        """Record and print a skipped peer, once."""
        if name not in self.skipped:
            self.skipped[name] = reason
            print(f"{name}: skipped, {reason}", flush=True)

    @contextmanager
    def skipping(self, name: str) -> Iterator[None]:
        """Skip a peer if the block fails, and continue with the others."""
        try:
            yield
        except (Skipped, OSError, subprocess.SubprocessError) as error:
            self.skip(name, str(error).strip() or type(error).__name__)

    def failures_of_ours(self) -> int:
        """Return the number of skipped entries that are ours."""
        return sum(name.startswith("ours") for name in self.skipped)


def arguments(about: str | None, quick: str) -> argparse.Namespace:
    """Parse the options that all these benchmarks have."""
    return options(about, quick).parse_args()


def options(about: str | None, quick: str) -> argparse.ArgumentParser:
    """Return a parser of these options, for a benchmark that adds more."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    return parser


def tracker_environment(name: str) -> Path:
    """Return the interpreter of a tracker's environment."""
    torch = importlib.util.find_spec("torch") if name == "TensorBoard" else None
    if name == "TensorBoard" and not (torch and torch.origin):
        raise Skipped("torch is not installed, which has its SummaryWriter")
    python = environment(TRACKERS[name].partition(">")[0], TRACKERS[name])
    if torch and torch.origin:
        # Use torch of this environment, after the peer's own packages: another copy would take gigabytes.
        packages = next(python.parent.parent.glob("lib/python*/site-packages"))
        (packages / "host.pth").write_text(f"{Path(torch.origin).parent.parent}\n")
    return python


def environment(name: str, *requirements: str) -> Path:
    """Return the interpreter of an environment with these packages; create it if it does not exist."""
    folder = BUILD / "peers" / name
    ready, python = folder / "ready.txt", folder / "bin" / "python"
    if not (ready.exists() and ready.read_text() == " ".join(requirements)):
        print(f"installing {requirements[-1]} into {folder.relative_to(ROOT)}", flush=True)
        run_quietly(sys.executable, "-m", "venv", "--clear", str(folder))
        run_quietly(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
        ready.write_text(" ".join(requirements))
    return python


def run_quietly(*command: str) -> None:
    """Run a command. Raises Skipped with the last line of its errors if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise Skipped(f"{' '.join(command[1:4])} failed: {lines[-1] if lines else done.returncode}")


@contextmanager
def kill_after(process: subprocess.Popen[str], seconds: float) -> Iterator[threading.Timer]:
    """Kill a process if the block takes longer than this."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield timer
    finally:
        timer.cancel()


def resident(pid: int) -> int:
    """Return the resident bytes of a process and its children; shared pages count for each."""
    own = 0
    with suppress(OSError, IndexError, ValueError):  # the process may end meanwhile
        process = Path(f"/proc/{pid}")
        own = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        children = [child for file in process.glob("task/*/children") for child in file.read_text().split()]
        own += sum(resident(int(child)) for child in children)
    return own


def judged(at_least: Sequence[Limit], at_most: Sequence[Limit]) -> list[dict[str, Any]]:
    """Return the goals as rows. A figure that could not be measured is NaN, and its goal fails."""
    rows = [(goal, value, f">= {limit:g}", value >= limit) for goal, value, limit in at_least]
    rows += [(goal, value, f"<= {limit:g}", value <= limit) for goal, value, limit in at_most]
    return [dict(zip(("goal", "figure", "limit", "holds"), row, strict=True)) for row in rows]


def conclude(
    goals: list[dict[str, Any]], figures: dict[str, Any], report: Skips, *, quick: bool, to: Path | None
) -> int:
    """Print a line per goal, write all figures with the machine and versions, and return the exit code."""
    print()
    for goal in goals:
        holds = "holds" if goal["holds"] else "FAILS"
        interval = f" [{goal['low']:.3g}, {goal['high']:.3g}]" if "low" in goal else ""
        print(f"{goal['goal']:<72} {goal['figure']:>9.4g}{interval}  limit {goal['limit']:<8} {holds}")
    machine = {
        "device": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **report.versions,
    }
    # JSON has no NaN.
    plain = [{key: None if _is_nan(value) else value for key, value in goal.items()} for goal in goals]
    if to:
        to.parent.mkdir(parents=True, exist_ok=True)
        whole = {"machine": machine, "quick": quick, **figures, "skipped": report.skipped, "goals": plain}
        to.write_text(json.dumps(whole, indent=2) + "\n")
    return 0 if all(goal["holds"] for goal in goals) else 1


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
