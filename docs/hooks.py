"""Reference pages that mkdocs makes from the code: run options, tables of a run file, commands, JSON objects."""

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
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from prismatic.contract import schema  # noqa: E402
from prismatic.layer.config import RouterConfig  # noqa: E402
from prismatic.train.config import RunConfig  # noqa: E402
from prismatic.train.experiment import Experiment  # noqa: E402
from prismatic.train.programs.upcycled import UpcycledConfig  # noqa: E402
from validation.cli import prismatic as command  # noqa: E402


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file under docs/."""
    made = {
        "reference/options.md": options(),
        "reference/schema.md": tables(),
        "reference/commands.md": commands(),
        "reference/json.md": verdict_json(),
        "reference/gate.md": gate_json(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "log.md": (ROOT / "LOG.md").read_text(),
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    for name in ("calibration", "distinct", "gate", "power", "real_runs"):
        path = f"benchmarks/results/{name}.json"
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path), inclusion=InclusionLevel.INCLUDED))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links that work in the repository into links that work on the site."""
    links = {
        "../LOG.md": "log.md",
        "../benchmarks/": "benchmarks/",
        "docs/": "",
        "../prismatic/train/config.py": "reference/options.md",  # the page that is made from it
        "../prismatic/contract/schema.py": "reference/schema.md",
    }
    for found, replacement in links.items():
        markdown = markdown.replace(f"]({found}", f"]({replacement}")
    return markdown


def table(heads: Sequence[str], rows: Iterator[Sequence[Any]]) -> str:
    """Return a Markdown table; bars in cells are escaped."""
    lines = [heads, ["---"] * len(heads), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def options() -> str:
    """Return the page of all options of `prismatic train`, from the models that validate them."""
    sections = [
        "# Run options",
        "Set an option as a line `name: value` in the `--config` file, or by `--set name=value`. The defaults are the "
        "documented experiment.",
    ]
    models = {"Router": RouterConfig, "Run": RunConfig, "Every trainer": Experiment, "Upcycled": UpcycledConfig}
    for title, model in models.items():
        fields = {name: model.model_fields[name] for name in model.__annotations__ if name in model.model_fields}
        meaning = meanings(model)
        rows = ((f"`{name}`", f"`{field.default}`", meaning.get(name, "")) for name, field in fields.items())
        sections += [f"## {title}", table(("option", "default", "meaning"), rows)]
    return "\n\n".join(sections)


def meanings(model: type) -> dict[str, str]:
    """Return the docstring below each field of a class, by field name."""
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def tables() -> str:
    """Return the page of all tables of a run file, with the unit and meaning of each column."""
    sections = [
        "# Run file tables",
        f"`dynamics.db` is a SQLite file of schema version {schema.SCHEMA_VERSION}, `application_id` "
        f"{schema.APPLICATION_ID:#x}. `prismatic schema` prints the same.",
    ]
    named = {
        "dynamics": schema.dynamics_columns(2),
        f"dynamics, of layers with more than {schema.PACKED_ABOVE} experts": schema.role_columns(),
        **{name: list(found) for name, (found, _) in schema.TABLES.items()},
    }
    for name, columns in named.items():
        note = "`expert_1` stands for each expert except 0." if name == "dynamics" else ""
        rows = ((f"`{column.name}`", column.type, column.unit, column.meaning) for column in columns)
        sections += [f"## {name}", note, table(("column", "type", "unit", "meaning"), rows)]
    return "\n\n".join(sections)


def commands() -> str:
    """Return the page of all commands with their options, as `--help` prints them."""
    parser = command.parser()
    (group,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    sections = [
        "# Commands",
        "The installed package has one command, `prismatic NAME`. Without it, `python -m prismatic NAME` runs the "
        "commands that train and manage runs, and `python -m validation NAME` runs the commands that judge.",
    ]
    for name, subparser in group.choices.items():
        subparser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)
        sections += [f"## {name}", f"```text\n{subparser.format_help()}```"]
    return "\n\n".join(sections)


def verdict_json() -> str:
    """Return the page of the JSON that `prismatic check --json` prints, from docs/check.schema.json."""
    described = json.loads((ROOT / "docs" / "check.schema.json").read_text())
    sections = [
        "# Verdict JSON",
        "`prismatic check RUN --json` prints one object. " + described["description"],
        table(("key", "type", "meaning"), rows_of(described, "")),
    ]
    for name, definition in described["$defs"].items():
        sections.append(f"## {name}")
        if "properties" in definition:
            sections.append(table(("key", "type", "meaning"), rows_of(definition, "")))
        else:
            values = ", ".join(f"`{value}`" for value in definition.get("enum", ()))
            sections.append(f"{values} {definition.get('description', '')}")
    return "\n\n".join(sections)


def gate_json() -> str:
    """Return the page of the JSON that `prismatic gate --json` prints, from docs/gate.schema.json."""
    described = json.loads((ROOT / "docs" / "gate.schema.json").read_text())
    sections = [
        "# Gate JSON",
        "`prismatic gate RUN --claim NAME --json` prints one object. " + described["description"],
        table(("key", "type", "meaning"), rows_of(described, "")),
    ]
    return "\n\n".join(sections)


def rows_of(described: dict[str, Any], within: str) -> Iterator[Sequence[str]]:
    """Yield one row per key, each followed by the keys of the object inside it."""
    for name, value in described.get("properties", {}).items():
        inner = value.get("items", value)
        yield f"`{within}{name}`", type_name(value), value.get("description", "")
        if "properties" in inner:
            yield from rows_of(inner, f"{within}{name}{'[]' if value is not inner else ''}.")


def type_name(value: dict[str, Any]) -> str:
    """Return the type of a JSON value in words."""
    if "$ref" in value:
        name, page = value["$ref"].rpartition("/")[2], "json.md" if value["$ref"].startswith("check.") else ""
        return f"[{name}]({page}#{name})" if "/$defs/" in value["$ref"] else f"[{name}]({page})"
    if "enum" in value:
        return ", ".join("`null`" if choice is None else f"`{choice}`" for choice in value["enum"])
    if "anyOf" in value:
        return " or ".join(map(type_name, value["anyOf"]))
    if "const" in value:
        return f"`{value['const']}`"
    if "items" in value:
        return f"list of {type_name(value['items'])}"
    found = value.get("type", "any")
    return " or ".join(found) if isinstance(found, list) else str(found)
