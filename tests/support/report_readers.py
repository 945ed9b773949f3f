"""Helpers for tests of reports: judgements of files, the JSON schema, and the text of each format."""

import copy
import json
import re
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
from referencing import Registry, Resource

from prismatic import terminal
from validation.files.sources import read_sources
from validation.judgement.judge import Judgement, judge
from validation.report.text_report import render
from validation.verdict.claims import Claim, Component

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.db"))
NOW = datetime(2026, 1, 2, tzinfo=UTC)
SCHEMA, GATE_SCHEMA = (json.loads((ROOT / "docs" / f"{name}.schema.json").read_text()) for name in ("check", "gate"))


@cache
def judged(*paths: Path) -> Judgement:
    return judge(*read_sources(list(paths)))


def as_text(judgement: Judgement, comparison=None, **how) -> str:
    """Return what `check` prints into a pipe."""
    return terminal.plain_text(*render(judgement, comparison, **how))


def closed(schema):
    """Return the schema with undocumented keys forbidden."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        strict["additionalProperties"] = False
    return strict


def validated(report):
    text = json.dumps(report, allow_nan=False)
    jsonschema.validate(json.loads(text), SCHEMA)
    jsonschema.validate(json.loads(text), closed(copy.deepcopy(SCHEMA)))


def validated_gate(report):
    """Check the object of the gate by its schema, which refers to that of `check`."""
    text = json.dumps(report, allow_nan=False)
    for gate, check in ((GATE_SCHEMA, SCHEMA), (closed(copy.deepcopy(GATE_SCHEMA)), closed(copy.deepcopy(SCHEMA)))):
        registry = Registry().with_resource("check.schema.json", Resource.from_contents(check))
        jsonschema.Draft202012Validator(gate, registry=registry).validate(json.loads(text))


def as_claim(values):
    """Return a claim of the JSON as a Claim."""
    components = tuple(Component(**component) for component in values["components"])
    kept = {key: value for key, value in values.items() if key != "claim"}
    return Claim(name=values["claim"], **kept | {"components": components})


class Words(HTMLParser):
    """A parser that keeps the text and the tags of a page."""

    def __init__(self):
        super().__init__()
        self.text = ""
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def read(html):
    words = Words()
    words.feed(html)
    return words


def unquoted(markdown):
    return re.sub(r"\\(.)", r"\1", markdown).replace("\u2060", "")


def suites(text):
    """Return the element of each suite by name, after checking its counts."""
    root = ET.fromstring(text)
    for suite in root:
        assert int(suite.get("tests")) == len(suite.findall("testcase"))
        for outcome, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            assert int(suite.get(attribute)) == len(suite.findall(f"testcase/{outcome}"))
    for attribute in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(attribute)) == sum(int(suite.get(attribute)) for suite in root)
    return {suite.get("name"): suite for suite in root}


def outcomes(suite):
    return {case.get("name"): [child.tag for child in case if child.tag != "system-out"] for case in suite}
