"""`prismatic doctor`: a line for each version, and what confines the readers."""

import sqlite3

from prismatic.sandbox.walls import Layer
from validation.cli import doctor
from validation.cli.main import main


def test_it_prints_versions_and_what_confines_the_readers(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "layer", lambda: Layer(0, True))
    monkeypatch.setitem(doctor.PACKAGES, "Nothing", "no-such-package")
    assert main(["doctor"]) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.replace("Apache ", "").splitlines())
    assert {"Prismatic", "Python", "SQLite", "DuckDB", "Arrow", "Streamlit", "PyTorch"} <= {*printed}
    assert printed["SQLite"] == sqlite3.sqlite_version
    assert printed["Nothing"] == "not installed"
    assert printed["readers"].startswith("seccomp; without Landlock")
