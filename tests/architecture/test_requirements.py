"""Requirements: bounds, pinned versions, and extras."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version

from tests.support.source_tree import ROOT

REQUIREMENTS = ("requirements.txt", "requirements-app.txt", "requirements-docs.txt")


def requirements() -> list[str]:
    """Return the lines of the requirement files that name a package."""
    lines = [line for name in REQUIREMENTS for line in (ROOT / name).read_text().splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def package(requirement: str) -> str:
    return re.split(r"[\[<>=;]", requirement)[0].lower().replace("_", "-")


def test_every_requirement_has_an_upper_bound():
    assert all(re.search(r"==|<", line) for line in requirements())


def test_every_requirement_is_pinned_to_an_exact_version():
    assert {package(line) for line in requirements()} <= {name.lower().replace("_", "-") for name in pinned()}


def test_the_lock_of_the_app_has_a_hash_of_every_file_of_the_pinned_versions():
    locked = (ROOT / "requirements-app.lock").read_text()
    versions = dict(re.findall(r"^([\w.-]+)==([^ ]+)", locked, flags=re.MULTILINE))
    app = [line for line in (ROOT / "requirements-app.txt").read_text().splitlines() if line and line[0] not in "#-"]
    assert {package(line) for line in app} <= versions.keys()
    known = {name.lower().replace("_", "-"): exact for name, exact in pinned().items()}
    assert {name: exact for name, exact in versions.items() if known.get(name, exact) != exact} == {}
    for entry in re.split(r"^(?=\w)", locked, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry, entry


def test_the_versions_under_test_are_the_pinned_ones():
    """Otherwise CI would test versions that no user installs."""
    other = {}
    for name, exact in pinned().items():
        try:
            found = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue  # of the documentation, or of another platform
        if found != exact:
            other[name] = (found, exact)
    assert not other, (
        f"installed and pinned versions differ: {other}. Run `make test`, or renew the pins by `make lock`."
    )


def test_every_extra_that_is_promised_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"train", "lightning", "hf", "sweep", "ray", "slurm", "export", "mcp"} <= project[
        "optional-dependencies"
    ].keys()
