"""What the benchmarks share that measure other programs beside ours: their environments, their workers, the goals."""

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

# Bounded closely where a benchmark reads the peer's own file format.
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

Limit = tuple[str, float, float]  # what it is about, the figure, the limit


class Skipped(Exception):
    """A peer that cannot be installed or run, and why."""


@dataclass
class Skips:
    """Who was skipped why, and the versions of the others: every report begins with this."""

    skipped: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def skip(self, who: str, why: str) -> None:
        """Note it, and say it once."""
        if who not in self.skipped:
            self.skipped[who] = why
            print(f"{who}: skipped, {why}", flush=True)

    @contextmanager
    def skipping(self, who: str) -> Iterator[None]:
        """What goes wrong with one peer is said and leaves the others alone."""
        try:
            yield
        except (Skipped, OSError, subprocess.SubprocessError) as error:
            self.skip(who, str(error).strip() or type(error).__name__)

    def failures_of_ours(self) -> int:
        """How often it was not a peer that failed."""
        return sum(who.startswith("ours") for who in self.skipped)


def arguments(about: str | None, quick: str) -> argparse.Namespace:
    """The options that each of these benchmarks has."""
    return options(about, quick).parse_args()


def options(about: str | None, quick: str) -> argparse.ArgumentParser:
    """The same for a benchmark that has more."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser


def tracker_environment(name: str) -> Path:
    """The interpreter of a tracker's environment."""
    torch = importlib.util.find_spec("torch") if name == "TensorBoard" else None
    if name == "TensorBoard" and not (torch and torch.origin):
        raise Skipped("torch, which its SummaryWriter is part of, is not installed")
    python = environment(TRACKERS[name].partition(">")[0], TRACKERS[name])
    if torch and torch.origin:
        # torch comes from this environment, after the peer's own packages: another copy would take gigabytes.
        packages = next(python.parent.parent.glob("lib/python*/site-packages"))
        (packages / "host.pth").write_text(f"{Path(torch.origin).parent.parent}\n")
    return python


def environment(name: str, *requirements: str) -> Path:
    """The interpreter of an environment with these packages, which is made where it does not stand ready already."""
    folder = BUILD / "peers" / name
    ready, python = folder / "ready.txt", folder / "bin" / "python"
    if not (ready.exists() and ready.read_text() == " ".join(requirements)):
        print(f"installing {requirements[-1]} into {folder.relative_to(ROOT)}", flush=True)
        run_quietly(sys.executable, "-m", "venv", "--clear", str(folder))
        run_quietly(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
        ready.write_text(" ".join(requirements))
    return python


def run_quietly(*command: str) -> None:
    """Run a command; Skipped with its last word if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise Skipped(f"{' '.join(command[1:4])} failed: {lines[-1] if lines else done.returncode}")


@contextmanager
def kill_after(process: subprocess.Popen[str], seconds: float) -> Iterator[threading.Timer]:
    """End a process that outlasts the block's time."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield timer
    finally:
        timer.cancel()


def resident(pid: int) -> int:
    """Bytes of memory that a process and its children hold now; pages that they share count for each."""
    own = 0
    with suppress(OSError, IndexError, ValueError):  # it may end meanwhile
        process = Path(f"/proc/{pid}")
        own = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        children = [child for file in process.glob("task/*/children") for child in file.read_text().split()]
        own += sum(resident(int(child)) for child in children)
    return own


def judged(at_least: Sequence[Limit], at_most: Sequence[Limit]) -> list[dict[str, Any]]:
    """The goals; what could not be measured is not a number and holds none."""
    rows = [(goal, value, f">= {limit:g}", value >= limit) for goal, value, limit in at_least]
    rows += [(goal, value, f"<= {limit:g}", value <= limit) for goal, value, limit in at_most]
    return [dict(zip(("goal", "figure", "limit", "holds"), row, strict=True)) for row in rows]


def conclude(
    goals: list[dict[str, Any]], figures: dict[str, Any], report: Skips, *, quick: bool, to: Path | None
) -> int:
    """Print a line per goal, write every figure with where it comes from, and answer the exit code."""
    print()
    for goal in goals:
        holds = "holds" if goal["holds"] else "FAILS"
        print(f"{goal['goal']:<72} {goal['figure']:>9.2f}  limit {goal['limit']:<8} {holds}")
    machine = {
        "device": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **report.versions,
    }
    # JSON has no NaN.
    plain = [goal | {"figure": None if math.isnan(goal["figure"]) else goal["figure"]} for goal in goals]
    if to:
        to.parent.mkdir(parents=True, exist_ok=True)
        whole = {"machine": machine, "quick": quick, **figures, "skipped": report.skipped, "goals": plain}
        to.write_text(json.dumps(whole, indent=2) + "\n")
    return 0 if all(goal["holds"] for goal in goals) else 1
