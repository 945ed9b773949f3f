"""The command line of the training side."""

from __future__ import annotations

import pytest

from prismatic.cli import main
from prismatic.contract import schema


def test_the_command_prints_the_schema(capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema.describe() + "\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--config"]])
def test_an_unknown_command_prints_the_usage_and_exits_with_2(capsys, arguments: list[str]):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: prismatic" in capsys.readouterr().err
