"""docs/upcycling.md: its fifteen lines, run in a fresh process, lead to the verdict that the page shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from examples.make import UPCYCLING, run_upcycling_page
from tests.support.run_tutorial import commands, words
from tests.support.source_tree import ROOT

SHOWN = commands(UPCYCLING)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the page in a folder."""
    program, *options = shlex.split(command)
    assert program == "prismatic"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    whole = [sys.executable, "-m", "validation.cli.prismatic", *options]
    return subprocess.run(whole, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_page_needs_fifteen_lines():
    code = re.search(r"```python\n(.*?)```", UPCYCLING.read_text(), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line.strip()]) == 15


@pytest.mark.parametrize(("command", "code", "lines"), [each for each in SHOWN if "examples/" in each[0]])
def test_the_page_shows_what_check_says_of_the_example(command, code, lines):
    done = run(command, ROOT)
    assert done.returncode == code
    assert "\n".join(lines).strip() in done.stdout


@pytest.mark.long  # trains for half a minute
def test_the_lines_of_the_page_lead_to_the_verdict_that_it_shows(tmp_path):
    run_upcycling_page(tmp_path)
    found = [each for each in SHOWN if "examples/" not in each[0]]
    assert found
    for command, code, lines in found:
        done = run(command, tmp_path)
        assert done.returncode == code
        missing = [line for line in lines if words(line) not in words(done.stdout)]
        assert not missing, done.stdout
