"""Libraries that commands and pages may load, and when. `make lint` checks imports between folders."""

import subprocess
import sys

import pytest

from tests.support.source_tree import ROOT, imported


@pytest.mark.parametrize("page", [ROOT / "app.py", *sorted((ROOT / "pages").glob("*.py"))], ids=lambda page: page.stem)
def test_a_page_asks_no_database_and_loads_no_torch(page):
    assert not {name.partition(".")[0] for name in imported(page)} & {"torch", "sqlite3", "duckdb"}


@pytest.mark.parametrize(
    "statement",
    [
        "import validation.judgement.judge, validation.cli.main; validation.cli.main.parser()",
        "import prismatic.contract.schema, prismatic.cli; prismatic.cli.parser()",
        "import validation.cli.prismatic; validation.cli.prismatic.parser()",
        "import ui.layout.cards",
    ],
)
def test_the_reporting_side_starts_without_torch_and_without_mcp(statement):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); {statement}; assert not {{'torch', 'mcp'}} & {{*sys.modules}}"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_server_answers_before_it_loads_the_libraries_that_judge_and_draw():
    """The first browser does not wait for these libraries: it loads its own part meanwhile."""
    judge = "validation.judgement.judge"
    code = f"""
        import sys; sys.path.insert(0, {str(ROOT)!r})
        import ui.server
        before = {{*sys.modules}}
        ui.server._preload()
        assert not before & {{'duckdb', 'altair', 'scipy', {judge!r}}}, before
        assert {{'altair', {judge!r}}} <= {{*sys.modules}}
        assert 'scipy.stats' not in sys.modules"""
    code = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    assert "leaked" not in done.stderr


SQLITE_READER = ("sqlite_worker", "sqlite_checks", "sqlite_columns", "arrow_driver")
READERS = [f"validation/files/sandbox/{name}.py" for name in (*SQLITE_READER, "zip_worker")]
CONFINED = ("walls", "limits", "sqlite_file", "summary_worker")


@pytest.mark.parametrize("name", [*READERS, *(f"prismatic/sandbox/{name}.py" for name in CONFINED)])
def test_a_worker_that_opens_untrusted_bytes_needs_only_its_walls_and_the_standard_library(name):
    worker = ROOT / name
    others = {module for module in imported(worker) if module.partition(".")[0] not in sys.stdlib_module_names}
    allowed = {"validation.files.sandbox", *(f"validation.files.sandbox.{each}" for each in SQLITE_READER)}
    assert others <= allowed | {"prismatic.sandbox", *(f"prismatic.sandbox.{name}" for name in CONFINED)}
