"""Settings of the app's operator: folders of runs, limits of a session, and the address for alerts.

They stand in the section [prismatic] of `.streamlit/secrets.toml`, which Streamlit reads for the login as well; it is
in no repository, so it may hold a secret address. Variables PRISMATIC_... override the file, options override both.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import streamlit as st

from prismatic.errors import ConfigError

ROOT = Path(__file__).parent.parent
NAMES = ("runs", "session_files", "session_megabytes", "alert_url")


@dataclass(frozen=True)
class Settings:
    """Settings for every session of this server."""

    runs: tuple[Path, ...]
    """Folders of runs that every session may pick from; read only."""
    session_files: int = 200
    session_megabytes: int = 2000
    """For all uploads of a session together."""
    alert_url: str = ""
    """The address that alerts are posted to; empty for none."""


def settings() -> Settings:
    """Return the current settings. Raises ConfigError for an unknown name or an invalid value."""
    found = {**_from_secrets(), **_from_environment()}
    if unknown := sorted({*found} - {*NAMES}):
        raise ConfigError(
            f"[prismatic] in secrets.toml: unknown setting {', '.join(unknown)}. Use one of {', '.join(NAMES)}."
        )
    return Settings(
        runs=_folders(found.get("runs") or _default_run_folders()),
        session_files=_positive_int("session_files", found.get("session_files", Settings.session_files)),
        session_megabytes=_positive_int(
            "session_megabytes", found.get("session_megabytes", Settings.session_megabytes)
        ),
        alert_url=_web_address(found.get("alert_url", "")),
    )


def parse_arguments(words: Sequence[str]) -> None:
    """Read the options after `streamlit run app.py --`, which override all other settings. Raises ConfigError."""
    parser = argparse.ArgumentParser(prog="streamlit run app.py --", description="Read the verdict of training runs.")
    parser.add_argument("--alert-url", help="address to which errors of runs in training are posted")
    given = parser.parse_args(words)
    if given.alert_url is not None:
        os.environ["PRISMATIC_ALERT_URL"] = given.alert_url
    settings()


def _from_secrets() -> Mapping[str, object]:
    try:
        return dict(st.secrets.get("prismatic", {}))
    except FileNotFoundError:  # no secrets.toml
        return {}


def _from_environment() -> Mapping[str, object]:
    values = {name: os.environ.get(f"PRISMATIC_{name.upper()}") for name in NAMES}
    return {name: value for name, value in values.items() if value}


def _default_run_folders() -> list[str]:
    """Return build/runs of the working directory and of the app's folder, which are often the same."""
    return [str(folder / "build" / "runs") for folder in (Path.cwd(), ROOT)]


def _folders(value: object) -> tuple[Path, ...]:
    """Return the folders from a list, or from one text separated as PATH is (by colons on Linux)."""
    folders = value.split(os.pathsep) if isinstance(value, str) else value
    if not isinstance(folders, Sequence) or not all(isinstance(folder, str) and folder for folder in folders):
        raise ConfigError(f"runs: expected a folder or a list of folders, found {value!r}.")
    return tuple(dict.fromkeys(Path(folder).expanduser().absolute() for folder in folders))


def _positive_int(name: str, value: object) -> int:
    try:
        count = int(str(value))
    except ValueError:
        count = 0
    if count < 1:
        raise ConfigError(f"{name}: expected a whole number of at least 1, found {value!r}.")
    return count


def _web_address(value: object) -> str:
    try:
        parts = urlsplit(str(value))
        valid = not value or (parts.scheme in ("http", "https") and bool(parts.hostname))
    except ValueError:
        valid = False
    if not valid:  # the message leaves out the address, which may be secret
        raise ConfigError("alert_url: expected an address with http:// or https:// and a host name.")
    return str(value)
