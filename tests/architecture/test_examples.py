"""The example runs: small, and judged as their README promises."""

import re
import subprocess
import sys

from tests.support.source_tree import ROOT
from validation import judge
from validation.files.read_files import read_files

EXAMPLES = ROOT / "examples"


def test_the_examples_are_small():
    assert all(path.stat().st_size < 700_000 for path in EXAMPLES.glob("*.db"))


def test_the_examples_are_judged_as_their_readme_promises():
    promised = dict(re.findall(r"^\| `(\S+\.db)` \|.*\| (\w+) \|$", (EXAMPLES / "README.md").read_text(), re.M))
    assert set(promised) == {path.name for path in EXAMPLES.glob("*.db")}
    for name, status in promised.items():
        assert judge(*read_files([EXAMPLES / name])).verdict.status == status, name


def test_the_table_of_the_benchmarks_is_that_of_their_results():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "table.py"], capture_output=True, text=True, check=True
    )
    assert done.stdout == (ROOT / "benchmarks" / "README.md").read_text()
