"""The pages of docs/: their commands exist and have the shown options, their links and anchors lead somewhere."""

import argparse
import re
from pathlib import Path

import pytest

from tests.support.source_tree import ROOT
from validation.cli.prismatic import parser

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "LOG.md", ROOT / "examples" / "README.md"]
(COMMANDS,) = (
    {name: subparser.format_help() for name, subparser in action.choices.items()}
    for action in parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)


def shown_commands(page: Path) -> list[str]:
    """Return every `prismatic` command line of the page's shell blocks and sentences."""
    text = page.read_text()
    blocks = re.findall(r"```(?:bash|console)\n(.*?)```", text, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines() + re.findall(r"`(prismatic [^`]+)`", text)
    found = [re.search(r"(?:^|^\$ |-m )prismatic (.*?)(?:  +#|$)", line) for line in lines]
    return [match[1] for match in found if match]


def anchors(page: Path) -> set[str]:
    """Return the anchors that mkdocs makes of the page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_on_a_page_exists_and_has_its_options(page):
    for command in shown_commands(page):
        name, *words = command.replace("[", " ").replace("]", " ").split()
        assert name in COMMANDS, command
        assert all(word in COMMANDS[name] for word in words if word.startswith("--")), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_local_link_leads_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        linked = (page.parent / target).resolve() if target else page
        assert "://" in target or linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_sources_of_generated_pages_lead_to_these_on_the_site(page):
    """A checkout has no generated page, so a link there leads to the code it is made from; the site has no code."""
    hooks = (ROOT / "docs" / "hooks.py").read_text()
    sources = re.findall(r"\]\((\.\./[^)#\s]*\.py)\)", page.read_text())
    assert all(f'"{source}": "reference/' in hooks for source in sources), sources
