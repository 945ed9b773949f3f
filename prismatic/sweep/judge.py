"""The verdict on a sweep, and the report of a study: compact the finished runs to one set and judge it.

It runs the judging side's commands in processes of their own, because the training side does not import that side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prismatic.errors import StudyError
from prismatic.sweep.engines import environment
from prismatic.sweep.plan import Job, Sweep


def judge(sweep: Sweep, finished: Sequence[Job]) -> Path | None:
    """Compact finished runs to a set, print its verdict and return its folder; None if compacting failed."""
    run_set = sweep.folder / "set"
    finished = sorted(finished, key=sweep.jobs.index)  # in any order of their ends, the set is the same
    shutil.rmtree(run_set, ignore_errors=True)  # an earlier set, of fewer finished runs
    files = "\n".join(str(sweep.db_path(job)) for job in finished)
    if _run_validation("compact", "-", "-o", str(run_set), stdin=files, quiet=True):
        return None
    print(flush=True)
    _run_validation("check", "--brief", str(run_set))
    return run_set


def report(sweep: Sweep, run_set: Path) -> list[Path]:
    """Write the report of a study as a page and as JSON, and return the written files.

    Raises StudyError if its runs registered other thresholds or hypotheses than each other.
    """
    files = [sweep.folder / "report.html", sweep.folder / "study.json"]
    codes = [_run_validation("report", "--study", str(run_set), "-o", str(file), quiet=True) for file in files]
    if StudyError.exit_code in codes:
        raise StudyError(f"{run_set}: the runs registered different plans; judge the runs of one plan at a time.")
    return [file for file, code in zip(files, codes, strict=True) if not code]


def _run_validation(*words: str, stdin: str = "", quiet: bool = False) -> int:
    command = [sys.executable, "-m", "validation", *words]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(
        command, input=stdin, text=True, stdout=output, env=os.environ | environment(), check=False
    ).returncode
