"""Print benchmarks/README.md: every goal of every results file with its figure, command, machine and versions.

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

These benchmarks measure the project's claims about speed, memory and error rates. `python benchmarks/NAME.py` prints
a table and each goal with its figure and limit, exits 0 only if all goals hold, and writes
`benchmarks/results/NAME.json`. `--quick` takes under two minutes. `python benchmarks/table.py` makes this page from
the results. Other programs that are compared (peers) are installed in separate environments under `build/peers`; a
peer that cannot be installed is named.

Seconds were measured on the machine named; ratios compare programs that took turns in one run.
"""


def main() -> int:
    """Print the page."""
    print(HEAD)
    for path in sorted((HERE / "results").glob("*.json")):
        print("\n".join(section(path)))
    return 0


def section(path: Path) -> Iterator[str]:
    """Yield one benchmark's lines: its question, its command, its machine, its goals."""
    found = json.loads(path.read_text())
    script = HERE / f"{path.stem}.py"
    yield f"## {path.stem}.py\n"
    yield (ast.get_docstring(ast.parse(script.read_text())) or "").partition("\n\n")[0].replace("\n", " ") + "\n"
    yield f"`python benchmarks/{script.name}`: {where(found)}.\n"
    yield "| goal | figure | limit | holds |\n|---|---|---|---|"
    for goal in goals(found):
        held = "yes" if goal["holds"] else "**no**"
        interval = f" [{number(goal['low'])}, {number(goal['high'])}]" if "low" in goal else ""
        yield f"| {goal['goal']} | {number(goal['figure'])}{interval} | {goal['limit']} | {held} |"
    yield ""


def goals(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the goals as each benchmark writes them; for the calibration, the worst cell of each family."""
    if "goals" in found:
        listed: list[dict[str, Any]] = found["goals"]
        return listed
    return [
        {"goal": one["family"], "figure": one["worst"], "limit": one["must"], "holds": one["holds"]}
        for one in found["families"]
    ]


def where(found: dict[str, Any]) -> str:
    """Return date, machine and versions as one line."""
    about = {**found.get("machine", {}), **found.get("about", {})}
    about |= {name: found[name] for name in ("date", "seconds") if name in found}
    return ", ".join(f"{name} {value}" for name, value in about.items() if not isinstance(value, dict | list))


def number(figure: float | None) -> str:
    return f"{figure:.3g}" if isinstance(figure, float) else "unknown" if figure is None else str(figure)


if __name__ == "__main__":
    sys.exit(main())
