"""New folders for runs, cache and secrets in each test, and Ctrl-C as at a terminal.

No test reads the checkout or the user's home. Processes that a test starts inherit the folders, including the server of
the browser tests.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit import config

from ui.settings import NAMES

# A shell starts background jobs with SIGINT ignored, and every process of ours would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def isolate(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Point runs, cache and secrets to this folder, and unset the operator's settings."""
    for name in NAMES:
        patch.delenv(f"PRISMATIC_{name.upper()}", raising=False)
    patch.setenv("PRISMATIC_DEBUG", "1")  # an error that a command catches is shown with its traceback
    patch.setenv("PRISMATIC_RUNS", str(folder / "runs"))
    patch.setenv("PRISMATIC_CACHE", str(folder / "cache"))
    patch.setenv("STREAMLIT_SECRETS_FILES", str(folder / "secrets.toml"))  # read by `streamlit run` alone


@pytest.fixture(scope="session", autouse=True)
def folders_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set the folders for fixtures that several tests share."""
    folder = tmp_path_factory.mktemp("isolated")
    config.set_option("secrets.files", [str(folder / "secrets.toml")])
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, folder)
        yield


@pytest.fixture(autouse=True)
def folders_of_the_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set the folders of one test."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("isolated"))
        yield
