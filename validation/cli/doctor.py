"""`prismatic doctor`: the versions of what reads and judges, and the walls that hold around the readers."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sqlite3

from prismatic._version import __version__
from prismatic.sandbox.walls import layer

PACKAGES = {"DuckDB": "duckdb", "Apache Arrow": "pyarrow", "Streamlit": "streamlit", "PyTorch": "torch"}


def add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    doctor = commands.add_parser(
        "doctor", help="print the versions of the software, and what confines the processes that read files"
    )
    doctor.set_defaults(run=_doctor)


def _doctor(_: argparse.Namespace) -> int:
    found = {"Prismatic": __version__, "Python": f"{platform.python_version()} on {platform.platform()}"}
    found["SQLite"] = sqlite3.sqlite_version
    found |= {name: _version(package) for name, package in PACKAGES.items()}
    found["readers"] = str(layer())
    for name, what in found.items():
        print(f"{name:<13} {what}")
    return 0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
