"""Damage never makes a yes: single-bit flips of the examples, files that lose a table, and what every output says."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from prismatic.runfile.logger import DynamicsLogger
from tests.support import bad_files
from tests.support.simulated_runs import simulated_run, write
from tests.support.source_tree import ROOT
from validation import judge, read_sources
from validation.diagnostics import ERROR
from validation.files.cache import Cache
from validation.files.limits import ReadLimits
from validation.files.parquet_set import write_set
from validation.files.read_files import read_files
from validation.files.run_file import RUN_TABLES, RunFile
from validation.files.sandbox.sqlite_client import FileContents, SqliteClient
from validation.report.exit_code import exit_code
from validation.report.json_report import as_json
from validation.report.text_report import render

EXAMPLES = ("positive-control", "as-is", "zero-norms")
# `make fuzz` flips 100,000 bits; every test run flips the first of them.
FLIPS = int(os.environ.get("PRISMATIC_FLIPS", "300"))
BATCH = 100  # files for one child process


def same_contents(run: RunFile, other: RunFile) -> bool:
    """Return whether two files hold the same run, so that their verdicts are the same."""
    tables = all(getattr(run, table).equals(getattr(other, table)) for table in ("wide", *RUN_TABLES))
    return tables and (run.facts, run.duplicates, run.wal) == (other.facts, other.duplicates, other.wal)


def strict_code(run: RunFile) -> int:
    return exit_code(judge([run]), strict=True)


@pytest.fixture(scope="module")
def examples() -> dict[str, RunFile]:
    """The examples as they are, of which none is a yes under --strict."""
    found = {name: read_files([ROOT / "examples" / f"{name}.db"])[0][0] for name in EXAMPLES}
    assert all(not run.damage and strict_code(run) != 0 for run in found.values())
    return found


@pytest.mark.parametrize("batch", range(-(-FLIPS // BATCH)))
def test_no_flipped_bit_makes_a_yes(tmp_path: Path, examples: dict[str, RunFile], batch: int) -> None:
    name = EXAMPLES[batch % len(EXAMPLES)]
    data, dice = (ROOT / "examples" / f"{name}.db").read_bytes(), random.Random(batch)
    paths = [tmp_path / f"{number}.db" for number in range(min(BATCH, FLIPS - batch * BATCH))]
    # Each bit once: of two equal files, one is read.
    for path, bit in zip(paths, dice.sample(range(8 * len(data)), len(paths)), strict=True):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
    found, rejected = read_files(paths, private=paths, limits=ReadLimits(seconds=8))
    assert len(found) + len(rejected) == len(paths)
    silent = [run for run in found if not run.damage and not same_contents(run, examples[name])]
    assert {run.name: strict_code(run) for run in silent if strict_code(run) == 0} == {}
    damaged = [run for run in found if run.damage][::20]
    assert {strict_code(run) for run in damaged} <= {4}
    assert len(silent) <= 0.05 * len(paths), "the checksums miss too much"


SUPPORTED = {"awakening": 2.0, "divergence": 1.0, "perturbed": 3, "control": 3}
DAMAGE = {
    "a flipped bit": "UPDATE dynamics SET expert_1_top_norm = 2 * expert_1_top_norm WHERE step = 300",
    "a lost row": "DELETE FROM dynamics WHERE step = 599",
    "a lost fact": "DELETE FROM run WHERE key = 'planned_steps'",
    "a lost table": "DROP TABLE experts",
    "a renamed table": "ALTER TABLE experts RENAME TO expertz",
    "a renamed column": "ALTER TABLE dynamics RENAME COLUMN expert_1_routing_weight TO expert_1_souting_weight",
    "a view": "ALTER TABLE experts RENAME TO e; CREATE VIEW experts AS SELECT * FROM e",
}


def change(path: Path, statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(statements)


@pytest.fixture(scope="module")
def supported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is a yes under --strict."""
    path = write(simulated_run(**SUPPORTED), tmp_path_factory.mktemp("yes") / "dynamics.db", planned_steps=600)
    assert exit_code(judge(*read_sources([path])), strict=True) == 0
    return path


@pytest.fixture
def copy(supported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(supported, tmp_path / "dynamics.db"))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_an_error_in_every_output(copy: Path, damage: str) -> None:
    change(copy, damage)
    judgement = judge(*read_sources([copy]))
    assert [f.id for f in judgement.findings if f.severity == ERROR] == ["damaged"]
    assert exit_code(judgement) == exit_code(judgement, strict=True) == 4
    assert as_json(judgement)["diagnostics"][0]["id"] == "damaged"
    with StringIO() as out:
        Console(file=out, width=120).print(*render(judgement))
        assert "a table is damaged, lost or changed" in out.getvalue()


def test_damage_stays_an_error_in_the_cache_a_set_and_an_uploaded_set(copy: Path, tmp_path: Path) -> None:
    change(copy, DAMAGE["a lost row"])
    cache = Cache(tmp_path / "cache")
    runs = [read_sources([copy], cache=cache)[0][0] for _ in range(2)]
    write_set(runs[:1], tmp_path / "set")
    shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set")
    for source in ("set", "set.zip"):
        runs += read_sources([tmp_path / source])[0]
    assert len(runs) == 4
    assert len({run.damage for run in runs}) == 1
    assert strict_code(runs[-1]) == 4


@pytest.mark.parametrize("statement", ["DROP TABLE run", "DELETE FROM run", "ALTER TABLE run RENAME TO ruo"])
def test_a_file_without_its_facts_is_no_strict_yes(copy: Path, statement: str) -> None:
    change(copy, statement)
    judgement = judge(*read_sources([copy]))
    assert exit_code(judgement, strict=True) == 3
    assert "no_plan" in {finding.id for finding in judgement.findings}


def test_a_table_that_cannot_be_read_is_an_error_also_without_checksums(copy: Path) -> None:
    change(copy, "DROP TABLE run; CREATE VIEW run AS SELECT 'planned_steps' AS key, '600' AS value")
    assert exit_code(judge(*read_sources([copy]))) == 4


def test_a_table_of_another_program_and_too_many_histograms_are_no_damage(tmp_path: Path) -> None:
    bad_files.layers_of_another_program(tmp_path / "layers.db")
    bad_files.histograms(tmp_path / "histograms.db")
    files = [tmp_path / "layers.db", tmp_path / "histograms.db"]
    # As private copies: a file that others may write is checked for damage in a quarter of a second or not at all.
    found, _ = read_files(files, limits=ReadLimits(rows=100_000), private=files)
    assert [(run.damage, len(run.notes)) for run in found] == [((), 1), ((), 1)]


def test_a_file_that_is_closed_while_it_is_read_is_read_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows may be older than the checksums if a training ends between two tables of a reading."""
    logger, read, calls = DynamicsLogger(copy), SqliteClient.read, []

    def meanwhile(self: SqliteClient, *arguments: object, **options: object) -> FileContents:
        calls.append(options)
        facts, tables = read(self, *arguments, **options)  # type: ignore[arg-type]
        if len(calls) == 1:
            logger.log(700, {"expert_gradients": {"expert_0": {"top_norm": 1.0}}})
            logger.close()
            tables = {**read(self, *arguments, **options)[1], "dynamics": tables["dynamics"]}  # type: ignore[arg-type]
        return facts, tables

    monkeypatch.setattr(SqliteClient, "read", meanwhile)
    (run,), _ = read_files([copy])
    assert (run.damage, run.wide["step"][-1].as_py()) == ((), 700)
