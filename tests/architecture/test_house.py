"""The walls between the parts, and what the README promises: both read from the files themselves."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from validation.files.read_files import read_files
from validation.judgement.judge import judge

ROOT = Path(__file__).parents[2]
WALLS = {
    "prismatic": {"duckdb", "streamlit", "altair", "pandas", "validation"},
    "validation": {
        "torch",
        "streamlit",
        *(f"prismatic.{name}" for name in ("experts", "measure", "layer", "integrations", "train")),
    },
    "pages": {"torch", "sqlite3", "duckdb"},
    "ui": {"torch", "sqlite3", "duckdb"},
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at any depth."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize(("folder", "forbidden"), WALLS.items(), ids=WALLS)
def test_no_import_crosses_a_wall(folder, forbidden):
    for path in (ROOT / folder).rglob("*.py"):
        crossed = {name for name in imported(path) for wall in forbidden if name == wall or name.startswith(wall + ".")}
        assert not crossed, f"{path.relative_to(ROOT)} imports {crossed}"


@pytest.mark.parametrize(
    "statement",
    [
        "import validation.judgement.judge, validation.cli.main",
        "import prismatic.contract.schema",
        "import ui.layout.cards",
    ],
)
def test_the_reporting_side_starts_without_torch(statement):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {statement}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_server_answers_before_it_loads_what_judges_and_draws_and_nobody_loads_all_of_scipy():
    """The first browser need not wait for it: it has its own part to load."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import ui.server; before = {{*sys.modules}}; "
    code += (
        "ui.server._load(); assert not before & {'duckdb', 'altair', 'scipy', 'validation.judgement.judge'}, before; "
    )
    code += "assert {'altair', 'validation.judgement.judge'} <= {*sys.modules}; assert 'scipy.stats' not in sys.modules"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert "leaked" not in done.stderr


def test_the_reader_needs_nothing_but_the_standard_library():
    assert {
        name.partition(".")[0] for name in imported(ROOT / "validation" / "files" / "sandbox" / "sqlite_worker.py")
    } <= sys.stdlib_module_names


def test_every_requirement_has_an_upper_bound():
    lines = [
        line for name in ("requirements.txt", "requirements-app.txt") for line in (ROOT / name).read_text().splitlines()
    ]
    named = [line for line in lines if line and not line.startswith(("#", "-r"))]
    assert all(re.search(r"==|<", line) for line in named), named


def test_every_extra_that_is_promised_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"train", "lightning", "hf", "sweep", "ray", "slurm", "export"} <= project["optional-dependencies"].keys()


def readme_commands() -> list[str]:
    """Every line of a shell block of the README that runs a module of this project."""
    blocks = re.findall(r"```(?:bash|console)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [line.removeprefix("$ ").partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python -m ") and "pytest" not in line]


def test_the_readme_shows_the_main_commands():
    assert {"prismatic", "validation"} <= {line.split()[2] for line in readme_commands()}


@pytest.mark.parametrize("command", readme_commands())
def test_every_command_in_the_readme_exists_and_has_its_options(command):
    words = command.split()
    module, name, options = words[2], words[3], [word for word in words if word.startswith("--")]
    done = subprocess.run(
        [sys.executable, "-m", module, name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(option in done.stdout for option in options)


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"])
def test_every_local_link_and_picture_is_there(name):
    targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / name).read_text())
    assert all((ROOT / target).exists() for target in targets if "://" not in target), targets


def test_the_examples_are_small():
    assert all(path.stat().st_size < 300_000 for path in (ROOT / "examples").glob("*.db"))


def test_the_examples_are_judged_as_their_readme_promises():
    readme = (ROOT / "examples" / "README.md").read_text()
    promised = dict(re.findall(r"^\| `(\S+\.db)` \|.*\| (\w+) \|$", readme, re.M))
    assert set(promised) == {path.name for path in (ROOT / "examples").glob("*.db")}
    for name, status in promised.items():
        assert judge(*read_files([ROOT / "examples" / name])).verdict.status == status, name


def test_the_table_of_the_benchmarks_is_that_of_their_results():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "table.py"], capture_output=True, text=True, check=True
    )
    assert done.stdout == (ROOT / "benchmarks" / "README.md").read_text()
