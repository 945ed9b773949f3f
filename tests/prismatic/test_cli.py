"""The command line of the training side."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prismatic.cli import main
from prismatic.command_line import TRAINING_LIBRARIES
from prismatic.contract import schema
from tests.support.source_tree import ROOT


def test_the_command_prints_the_schema(capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema.describe() + "\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--config"]])
def test_an_unknown_command_prints_the_usage_and_exits_with_2(capsys, arguments: list[str]):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: prismatic" in capsys.readouterr().err


@pytest.mark.parametrize("library", TRAINING_LIBRARIES)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_training_without_its_libraries_says_how_to_install_them(command: str, library: str):
    code = f"import sys; sys.modules[{library!r}] = None; from prismatic.cli import main; sys.exit(main([{command!r}]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: this command needs {library}, which is not installed. Install the training")
    assert len(done.stderr.splitlines()) == 1
