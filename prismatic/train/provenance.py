"""The facts that reproduce a training run: options, text, git commit, versions, machine."""

from __future__ import annotations

import platform
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from prismatic._version import __version__
from prismatic.train.config import RunConfig
from prismatic.train.corpus import Corpus


def run_facts(config: RunConfig, run_hash: str, corpus: Corpus) -> dict[str, Any]:
    """Return the rows of the `run` table that are known before the first step."""
    commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {
        **{f"config.{name}": value for name, value in config.facts().items()},
        "run_hash": run_hash,
        "planned_steps": config.steps,
        "warmup_steps": config.warmup_steps,
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        # Routing on the mean of a whole sequence, or of a whole batch, lets a position see later ones.
        "causal": config.routing == "frozen" or (config.router_input == "first" and config.merge == "example"),
        "hook": "plain loop",
        "precision": "float32",
        "git_commit": commit,
        "git_dirty": None if dirty is None else bool(dirty),
        "prismatic": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "device": config.device,
        "started": time.time(),
        "exit_state": "running",
    }


def _git(*arguments: str) -> str | None:
    """Return the output of git in this source tree; None without git or a repository."""
    try:
        here = Path(__file__).parent
        result = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
