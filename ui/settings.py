"""What the operator of a server may set.

The section [prismatic] of `.streamlit/secrets.toml`: the file of the operator that Streamlit reads for the login as
well, that no repository holds, and that may keep an address that is a secret. The environment goes over the file.
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
    """What holds for every session of this server."""

    runs: tuple[Path, ...]
    """Folders of runs that everyone may pick. They are only read."""
    session_files: int = 200
    session_megabytes: int = 2000
    """Of all uploads of a session together."""
    alert_url: str = ""
    """Where an alert is posted to; empty: nowhere."""


def settings() -> Settings:
    """The settings as they are now. Raises ConfigError for an unknown name or a value that cannot be."""
    found = {**_from_secrets(), **_from_environment()}
    if unknown := sorted({*found} - {*NAMES}):
        raise ConfigError(f"[prismatic] in secrets.toml: unknown {', '.join(unknown)}; known are {', '.join(NAMES)}.")
    return Settings(
        runs=_folders(found.get("runs") or _default_run_folders()),
        session_files=_positive_int("session_files", found.get("session_files", Settings.session_files)),
        session_megabytes=_positive_int(
            "session_megabytes", found.get("session_megabytes", Settings.session_megabytes)
        ),
        alert_url=_web_address(found.get("alert_url", "")),
    )


def parse_arguments(words: Sequence[str]) -> None:
    """Options after `streamlit run app.py --`, which go over everything else. Raises ConfigError as `settings` does."""
    parser = argparse.ArgumentParser(prog="streamlit run app.py --", description="Read the verdict of training runs.")
    parser.add_argument("--alert-url", help="post to this address when a watched run turns bad")
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
    there = {name: os.environ.get(f"PRISMATIC_{name.upper()}") for name in NAMES}
    return {name: value for name, value in there.items() if value}


def _default_run_folders() -> list[str]:
    """The trainer's own folder: where the server was started, and beside the app, which is often the same."""
    return [str(place / "build" / "runs") for place in (Path.cwd(), ROOT)]


def _folders(value: object) -> tuple[Path, ...]:
    """A list of folders, or one text with the system's separator of paths (a colon on Linux) between them."""
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
        sound = not value or (parts.scheme in ("http", "https") and bool(parts.hostname))
    except ValueError:
        sound = False
    if not sound:  # the address may be a secret: it is not repeated
        raise ConfigError("alert_url: expected an address that begins with http:// or https:// and names a host.")
    return str(value)
