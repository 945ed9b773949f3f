"""Prints benchmarks/README.md: every goal of every results file with its figure, command, machine and versions.

python benchmarks/table.py > benchmarks/README.md
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
HEAD = """# Benchmarks

What is claimed about speed, memory and errors is measured here. `python benchmarks/NAME.py` prints a table and, for
each goal, the figure, the limit and whether it holds; it exits 0 only if all do, and writes
`benchmarks/results/NAME.json`, from which this page is made (`python benchmarks/table.py`). `--quick` takes under two
minutes. Peers are installed into environments of their own under `build/peers`, and named where they cannot be had.

Figures in seconds are of the machine named; ratios are of programs that took turns in one run.
"""


def main() -> int:
    """Print the page."""
    print(HEAD)
    for path in sorted((HERE / "results").glob("*.json")):
        print("\n".join(section(path)))
    return 0


def section(path: Path) -> Iterator[str]:
    """One benchmark: its question, its command, where it ran, its goals."""
    found = json.loads(path.read_text())
    script = HERE / f"{path.stem}.py"
    yield f"## {path.stem}.py\n"
    yield (ast.get_docstring(ast.parse(script.read_text())) or "").partition("\n\n")[0].replace("\n", " ") + "\n"
    yield f"`python benchmarks/{script.name}`: {where(found)}.\n"
    yield "| goal | figure | limit | holds |\n|---|---|---|---|"
    for goal in goals(found):
        held = "yes" if goal["holds"] else "**no**"
        yield f"| {goal['goal']} | {number(goal['figure'])} | {goal['limit']} | {held} |"
    yield ""


def goals(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The goals as each benchmark writes them; of the calibration, the worst cell of each family."""
    if "goals" in found:
        listed: list[dict[str, Any]] = found["goals"]
        return listed
    return [
        {"goal": one["family"], "figure": one["worst"], "limit": one["must"], "holds": one["holds"]}
        for one in found["families"]
    ]


def where(found: dict[str, Any]) -> str:
    """Date, machine and versions."""
    about = {**found.get("machine", {}), **found.get("about", {})}
    about |= {name: found[name] for name in ("date", "seconds") if name in found}
    return ", ".join(f"{name} {value}" for name, value in about.items() if not isinstance(value, dict | list))


def number(figure: float) -> str:
    return f"{figure:.3g}" if isinstance(figure, float) else str(figure)


if __name__ == "__main__":
    sys.exit(main())
