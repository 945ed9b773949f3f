"""The README and its companions: commands exist, links lead somewhere, and the answer of `check` is the real one."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.support.source_tree import ROOT

PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
README = (ROOT / "README.md").read_text()


def readme_commands() -> list[str]:
    """Return every line of a shell block of the README that runs `prismatic`."""
    blocks = re.findall(r"```(?:bash|console)\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.removeprefix("$ ").partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("prismatic ")]


def help_of(*words: str) -> str:
    command = [sys.executable, "-m", "validation.cli.prismatic", *words, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_readme_shows_the_main_commands():
    assert {"train", "sweep", "check", "report", "query"} <= {line.split()[1] for line in readme_commands()}


@pytest.mark.parametrize("command", readme_commands())
def test_every_command_in_the_readme_exists_and_has_its_options(command):
    words = shlex.split(command)
    text = help_of(words[1])
    assert all(word.partition("=")[0] in text for word in words[2:] if word.startswith("-"))


def test_the_answer_of_check_in_the_readme_is_what_it_prints():
    command, answer = re.search(r"```console\n\$ prismatic (check .*?)\n(.*?)```", README, flags=re.DOTALL).groups()
    words = [sys.executable, "-m", "validation.cli.prismatic", *shlex.split(command)]
    assert subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout == answer


def test_every_target_in_the_readme_is_in_the_makefile():
    targets = set(re.findall(r"\bmake ([a-z]+)", README))
    assert {"app", "test"} <= targets
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("name", PAGES)
def test_every_local_link_and_picture_is_there(name):
    targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / name).read_text())
    assert all((ROOT / target).exists() for target in targets if "://" not in target), targets


def test_the_first_release_is_told_in_under_60_lines():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert len(text[text.index("## [0.1.0]") :].splitlines()) < 60
