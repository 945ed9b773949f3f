"""The folder of a process: it goes with its process, and what a killed one left goes with the next."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from validation.files.temporary import ALIVE, remove_leftovers

HOLD = """
import sys
from validation.files.temporary import temporary_folder
(temporary_folder() / "upload.db").write_bytes(b"x" * 1000)
print(temporary_folder(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def holder(place: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that has a folder; return it and the folder."""
    environment = os.environ | {"TMPDIR": str(place)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=pipe, stdout=pipe, text=True, env=environment)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_a_folder_goes_with_its_process(place: Path):
    process, folder = holder(place)
    assert folder.stat().st_mode & 0o077 == 0
    assert remove_leftovers() == 0
    assert (folder / "upload.db").exists()
    process.communicate("\n")
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_by_the_next(place: Path):
    killed, left = holder(place)
    killed.kill()
    killed.communicate()
    assert (left / "upload.db").exists()
    process, folder = holder(place)
    assert not left.exists()
    assert folder.exists()
    process.communicate("\n")


def test_folders_of_others_stay(place: Path):
    (place / "prismatic-without-lock").mkdir()
    (place / "elsewhere").mkdir()
    (place / "elsewhere" / ALIVE).touch()
    (place / "prismatic-link").symlink_to(place / "elsewhere")
    assert remove_leftovers() == 0
    assert {path.name for path in place.iterdir()} == {"prismatic-without-lock", "elsewhere", "prismatic-link"}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root gives files away")
def test_folders_of_other_users_stay(place: Path):
    (place / "prismatic-theirs").mkdir()
    (place / "prismatic-theirs" / ALIVE).touch()
    os.chown(place / "prismatic-theirs", 12345, 12345)
    assert remove_leftovers() == 0
    assert (place / "prismatic-theirs").exists()
