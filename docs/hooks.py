"""Pages of the documentation that are made from the code when the site is built: what they say cannot grow stale."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from prismatic.contract import schema  # noqa: E402
from prismatic.layer.config import RouterConfig  # noqa: E402
from prismatic.train.config import RunConfig  # noqa: E402
from validation.cli import prismatic as command  # noqa: E402


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that no file under docs/ holds."""
    made = {
        "reference/options.md": options(),
        "reference/schema.md": tables(),
        "reference/commands.md": commands(),
        "reference/json.md": verdict(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "log.md": (ROOT / "LOG.md").read_text(),
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def table(heads: Sequence[str], rows: Iterator[Sequence[Any]]) -> str:
    """A table in Markdown; a bar in a cell would end it."""
    lines = [heads, ["---"] * len(heads), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def options() -> str:
    """Every option of `train`, from the model that checks them."""
    sections = [
        "# Options of a run",
        "Lines `name: value` of the file behind `--config`, or `--set name=value`. Defaults are the documented run.",
    ]
    for title, model in (("Router", RouterConfig), ("Run", RunConfig)):
        own = {name: model.model_fields[name] for name in model.__annotations__ if name in model.model_fields}
        said = meanings(model)
        rows = ((f"`{name}`", f"`{field.default}`", said.get(name, "")) for name, field in own.items())
        sections += [f"## {title}", table(("option", "default", "meaning"), rows)]
    return "\n\n".join(sections)


def meanings(model: type) -> dict[str, str]:
    """The strings below the fields of a class."""
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def tables() -> str:
    """Every table of a run file with its columns, their units and meanings."""
    sections = [
        "# Tables of a run file",
        f"`dynamics.db` is a SQLite file of schema version {schema.SCHEMA_VERSION}, `application_id` "
        f"{schema.APPLICATION_ID:#x}. `prismatic schema` prints the same.",
    ]
    named = {"dynamics": schema.dynamics_columns(2)} | {name: list(found) for name, (found, _) in schema.TABLES.items()}
    for name, columns in named.items():
        note = "`expert_1` stands for every expert but 0." if name == "dynamics" else ""
        rows = ((f"`{one.name}`", one.type, one.unit, one.meaning) for one in columns)
        sections += [f"## {name}", note, table(("column", "type", "unit", "meaning"), rows)]
    return "\n\n".join(sections)


def commands() -> str:
    """Every command with its options, as `--help` prints them."""
    parser = command.parser()
    (group,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    sections = [
        "# Commands",
        "An installed package has them as `prismatic NAME`. In a checkout `python -m prismatic` has those that train "
        "and keep runs, `python -m validation` those that judge.",
    ]
    for name, own in group.choices.items():
        own.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        sections += [f"## {name}", f"```text\n{own.format_help()}```"]
    return "\n\n".join(sections)


def verdict() -> str:
    """What `check --json` prints, from the schema that its tests hold it to."""
    described = json.loads((ROOT / "docs" / "check.schema.json").read_text())
    sections = [
        "# JSON of a verdict",
        "`prismatic check RUN --json` prints one object. " + described["description"],
        table(("key", "type", "meaning"), rows_of(described, "")),
    ]
    for name, own in described["$defs"].items():
        sections.append(f"## {name}")
        if "properties" in own:
            sections.append(table(("key", "type", "meaning"), rows_of(own, "")))
        else:
            sections.append(", ".join(f"`{value}`" for value in own.get("enum", ())) + " " + own.get("description", ""))
    return "\n\n".join(sections)


def rows_of(described: dict[str, Any], within: str) -> Iterator[Sequence[str]]:
    """One row per key, those of objects within it behind it."""
    for name, own in described.get("properties", {}).items():
        inner = own.get("items", own)
        yield f"`{within}{name}`", kind(own), own.get("description", "")
        if "properties" in inner:
            yield from rows_of(inner, f"{within}{name}{'[]' if own is not inner else ''}.")


def kind(own: dict[str, Any]) -> str:
    """The type of a value in words."""
    if "$ref" in own:
        name = own["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "enum" in own:
        return ", ".join(f"`{value}`" for value in own["enum"])
    if "const" in own:
        return f"`{own['const']}`"
    if "items" in own:
        return f"list of {kind(own['items'])}"
    found = own.get("type", "any")
    return " or ".join(found) if isinstance(found, list) else str(found)
