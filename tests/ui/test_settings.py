"""Settings of the operator by file, environment and command line, and invalid ones."""

import os

import pytest
import streamlit as st

from prismatic.errors import ConfigError
from ui.settings import ROOT, Settings, parse_arguments, settings

HOOK = "https://chat.example/hooks/secret"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in [name for name in os.environ if name.startswith("PRISMATIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(st, "secrets", {})


def test_without_a_word_of_the_operator_the_runs_are_those_that_are_trained_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert settings() == Settings(runs=(tmp_path / "build" / "runs", ROOT / "build" / "runs"))
    monkeypatch.chdir(ROOT)
    assert settings() == Settings(runs=(ROOT / "build" / "runs",))


def test_the_file_sets_and_the_environment_goes_over_it(monkeypatch, tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    monkeypatch.setattr(st, "secrets", {"prismatic": {"runs": [str(a), str(b)], "session_files": 3, "alert_url": HOOK}})
    assert settings() == Settings(runs=(a, b), session_files=3, alert_url=HOOK)
    monkeypatch.setenv("PRISMATIC_RUNS", f"{b}{os.pathsep}{c}")
    monkeypatch.setenv("PRISMATIC_SESSION_FILES", "7")
    assert settings() == Settings(runs=(b, c), session_files=7, alert_url=HOOK)


def test_the_command_line_goes_over_everything(monkeypatch):
    monkeypatch.setenv("PRISMATIC_ALERT_URL", "http://127.0.0.1/other")
    parse_arguments(["--alert-url", HOOK])
    assert settings().alert_url == HOOK


@pytest.mark.parametrize("url", ["ftp://host/x", "file:///etc/passwd", "chat.example", "http://", "https://[", "x"])
def test_an_address_that_is_not_of_the_web_is_refused_and_not_repeated(url, monkeypatch):
    monkeypatch.setenv("PRISMATIC_ALERT_URL", url)
    with pytest.raises(ConfigError, match="http://") as refused:
        settings()
    assert url == "http://" or url == "x" or url not in str(refused.value)


@pytest.mark.parametrize(
    "section", [{"session_files": 0}, {"session_megabytes": "many"}, {"runs": 3}, {"runs": [""]}, {"rums": ["x"]}]
)
def test_what_cannot_be_is_named(section, monkeypatch):
    monkeypatch.setattr(st, "secrets", {"prismatic": section})
    with pytest.raises(ConfigError, match=next(iter(section))):
        settings()
