"""What a sweep's runs say together: they are compacted to one set, and the set is judged.

By the commands of the reporting side, in processes of their own: this side knows nothing of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prismatic.sweep.engines import environment
from prismatic.sweep.plan import Job, Sweep


def judge(sweep: Sweep, finished: Sequence[Job]) -> Path | None:
    """Compact finished runs to a set, print its verdict, and return where it is; None if that failed, and said why."""
    together = sweep.folder / "set"
    shutil.rmtree(together, ignore_errors=True)  # of an earlier time, when fewer runs were finished
    files = "\n".join(str(sweep.db_path(job)) for job in finished)
    if _validation("compact", "-", "-o", str(together), given=files, quiet=True):
        return None
    print(flush=True)
    _validation("check", "--brief", str(together))
    return together


def _validation(*words: str, given: str = "", quiet: bool = False) -> int:
    command = [sys.executable, "-m", "validation", *words]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(
        command, input=given, text=True, stdout=output, env=os.environ | environment(), check=False
    ).returncode
