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
from prismatic.train.corpus import Corpus
from prismatic.train.experiment import Experiment


def run_facts(config: Experiment, run_hash: str, corpus: Corpus | None) -> dict[str, Any]:
    """Return the rows of the `run` table that are known before the first step. corpus: None of a run without a text."""
    commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    warmup_steps = config.facts().get("warmup_steps")
    return {
        **{f"config.{name}": value for name, value in config.facts().items()},
        "run_hash": run_hash,
        "planned_steps": config.steps,
        **({"warmup_steps": warmup_steps} if warmup_steps is not None else {}),
        **({"corpus": corpus.name, "corpus_sha256": corpus.sha256} if corpus is not None else {}),
        "causal": config.causal,
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
