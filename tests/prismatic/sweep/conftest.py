"""A sweep starts a process for each run: none of these tiny trainings is worth a second to load a compiler."""

import pytest

from prismatic.measure.kernels.choice import SWITCH


@pytest.fixture(autouse=True)
def no_compiler_in_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "numpy")
