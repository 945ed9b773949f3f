"""The package: its public names, and what it does not import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import prismatic


def test_the_package_and_its_schema_do_not_import_torch():
    program = """if True:
        import sys, prismatic, prismatic.contract.schema, prismatic.cli
        assert prismatic.cli.main(["schema"]) == 0
        print(sorted({"torch", "numpy", "pydantic", "yaml"} & set(sys.modules)))"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_package_offers_the_names_it_lists():
    assert all(getattr(prismatic, name) for name in prismatic.__all__)
    assert dir(prismatic) == sorted(prismatic.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'Prism'; it has .*Prismatic"):
        _ = prismatic.Prism
