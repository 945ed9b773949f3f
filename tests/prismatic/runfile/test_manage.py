"""Listing, copying and upgrading run files, also while they are written."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from contextlib import chdir, closing
from pathlib import Path

import pytest

from prismatic.cli import main
from prismatic.contract import schema
from prismatic.errors import LoggerError
from prismatic.runfile.logger import DynamicsLogger
from prismatic.runfile.manage import find_run, list_runs, migrate, snapshot, summarize
from tests.support.source_tree import ROOT
from validation.files.read_files import read_files

EXAMPLES = ROOT / "examples"
STEP = {"expert_gradients": {f"expert_{i}": {"top_norm": 1.0, "bottom_norm": 0.5} for i in range(3)}}


def rows(path: Path, query: str = "SELECT * FROM dynamics ORDER BY step") -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def written(path: Path, steps: int = 5, **facts: object) -> Path:
    with DynamicsLogger(path) as logger:
        logger.log_run({"exit_state": "finished", "planned_steps": 50, "config.seed": 3, **facts})
        for step in range(0, 10 * steps, 10):
            logger.log(step, STEP)
    return path


def documented(path: Path, *statements: str) -> Path:
    """A file of the documented wide schema, as another program writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements or WIDE:
            connection.execute(statement)
    return path


WIDE = [
    "CREATE TABLE dynamics (step INTEGER PRIMARY KEY, ts REAL, expert_0_top_norm REAL, expert_1_top_norm REAL)",
    "INSERT INTO dynamics VALUES (0, 1.5, 0.25, 0.5), (10, 2.5, 0.75, 1.0)",
]
WITHOUT_A_KEY = [
    'CREATE TABLE dynamics ("step" BIGINT, "odd ""name" TEXT, expert_0_top_norm REAL, expert_1_top_norm REAL)',
    "INSERT INTO dynamics VALUES (10, 'a', 1.0, 2.0), (0, 'b', 3.0, 4.0), (10, 'c', 5.0, 6.0)",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "abc" / "dynamics.db"


@pytest.mark.parametrize("state", ["finished", "crashed", "interrupted"])
def test_the_status_of_a_run_that_ended(path: Path, state: str):
    run = summarize(written(path, exit_state=state, run_hash="0123456"))
    assert (run.run, run.status, run.last_step, run.planned_steps, run.logged_steps) == ("0123456", state, 40, 50, 5)
    assert (run.seed, run.perturbation_scale) == (3, None)


def test_a_run_is_running_as_long_as_it_is_written_and_killed_after_that(path: Path):
    with DynamicsLogger(path) as logger:
        logger.log_run({"exit_state": "running"})
        logger.flush()
        assert summarize(path).status == "running"
    assert summarize(path).status == "killed"


def test_one_bad_file_does_not_hide_the_other_runs(path: Path):
    written(path)
    bad = path.parent.parent / "bad" / "dynamics.db"
    bad.parent.mkdir()
    bad.write_text("no database")
    documented(path.parent.parent / "other" / "dynamics.db")
    assert {run.run: run.status for run in list_runs(path.parent.parent)} == {
        "abc": "finished",
        "bad": "unreadable",
        "other": "unknown",
    }


def test_options_that_a_framework_gave_are_listed_like_our_own(path: Path):
    written(path, **{"option.seed": 7, "option.perturbation_scale": 0.5})
    (run,) = list_runs(path.parent.parent)
    assert (run.seed, run.perturbation_scale) == (7, 0.5)


def test_runs_are_listed_as_a_table_and_as_json(path: Path, capsys):
    written(path, run_hash="0123456", **{"config.perturbation_scale": 2.0})
    assert main(["runs", str(path.parent.parent)]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["run", "status", "step"]
    assert line.split()[:6] == ["0123456", "finished", "41", "of", "50", "5"]
    assert line.split()[-3:] == ["3", "2.0", str(path)]
    main(["runs", str(path.parent.parent), "--json"])
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["run"], run["logged_steps"], run["path"]) == ("0123456", 5, str(path))


def test_an_empty_list_shows_how_to_make_a_run(tmp_path: Path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert "prismatic train" in capsys.readouterr().out


@pytest.mark.parametrize("which", ["abc", "runs/abc", "runs/abc/dynamics.db"])
def test_a_run_is_found_by_hash_folder_or_file(path: Path, which: str):
    written(path)
    with chdir(path.parent.parent.parent):
        assert find_run(which, Path("runs")).samefile(path)


def test_a_missing_run_is_refused_with_the_paths_that_were_tried(tmp_path: Path):
    with (
        chdir(tmp_path),
        pytest.raises(LoggerError, match=r"tried nope, .*build/runs/nope/dynamics\.db"),
    ):
        find_run("nope")


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_snapshot_of_a_live_run_has_all_rows_of_one_moment(path: Path, tmp_path: Path, journal_mode: str):
    stop = threading.Event()
    with DynamicsLogger(path, flush_seconds=0.01, journal_mode=journal_mode) as logger:

        def train() -> None:
            step = 0
            while not stop.wait(0.0005):
                logger.log(step, STEP | {"layers": [{"layer": 0, "expert": 0, "source": "merged"}]})
                step += 1

        thread = threading.Thread(target=train)
        thread.start()
        try:
            copies = []
            for number in range(5):
                logger.flush()
                before = rows(path, "SELECT count(*) FROM dynamics")[0][0]
                copies.append((before, snapshot(path, tmp_path / f"{number}.db")))
        finally:
            stop.set()
            thread.join()
    for before, copy in copies:
        steps = [step for (step,) in rows(copy, "SELECT step FROM dynamics ORDER BY step")]
        assert len(steps) >= before
        assert steps == list(range(len(steps)))
        assert rows(copy, "SELECT count(*) FROM layers") == [(len(steps),)]
        assert rows(copy, "PRAGMA integrity_check") == [("ok",)]
        marks = [rows(copy, f"PRAGMA {name}")[0][0] for name in ("application_id", "user_version", "journal_mode")]
        assert marks == [schema.APPLICATION_ID, schema.SCHEMA_VERSION, "delete"]


def test_the_command_names_the_snapshot_after_run_and_step(path: Path, capsys):
    written(path)
    with chdir(path.parent.parent.parent):
        assert main(["snapshot", str(path)]) == 0
        assert capsys.readouterr().out.startswith("abc-step-40.db: 5 logged steps")
        assert main(["snapshot", str(path)]) == 2
        assert "abc-step-40.db: already exists" in capsys.readouterr().err
        assert main(["snapshot", str(path), "--overwrite"]) == 0
        assert len(rows(Path("abc-step-40.db"))) == 5


def test_a_snapshot_of_another_file_is_refused(tmp_path: Path):
    (tmp_path / "x.db").write_text("no database")
    with pytest.raises(LoggerError, match=r"x\.db: cannot be read as a run file"):
        snapshot(tmp_path / "x.db", tmp_path / "y.db")
    assert not (tmp_path / "y.db").exists()


def killed_while_writing(path: Path, folder: Path) -> Path:
    """Return a copy of a run file and its journal, made in the middle of a transaction that has reached the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        for step in range(1000, 9000):
            connection.execute("INSERT INTO dynamics (step, loss) VALUES (?, 1.0)", (step,))
        copy = folder / "killed" / "dynamics.db"
        copy.parent.mkdir()
        for suffix in ("", "-journal"):
            Path(f"{copy}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
        connection.execute("ROLLBACK")
    return copy


def test_the_unfinished_transaction_of_a_killed_writer_is_rolled_back(path: Path, tmp_path: Path):
    whole = written(path).stat().st_size
    killed = killed_while_writing(path, tmp_path)
    assert killed.stat().st_size > whole  # a part of the transaction has reached the file
    (rejected,) = read_files([killed])[1]
    assert "prismatic snapshot" in str(rejected.error)
    copy = snapshot(killed, tmp_path / "whole.db")
    assert rows(copy, "SELECT count(*) FROM dynamics") == [(5,)]
    assert summarize(killed).logged_steps == 5
    assert read_files([copy])[1] == []


def test_the_documented_table_is_upgraded_and_the_original_kept(path: Path):
    before = documented(path).read_bytes()
    kept = migrate(path)
    assert kept.name == "dynamics.db.v0"
    assert kept.read_bytes() == before
    names = "step, ts, expert_0_top_norm, expert_1_top_norm, expert_1_divergence"
    assert rows(path, f"SELECT {names} FROM dynamics") == [(0, 1.5, 0.25, 0.5, None), (10, 2.5, 0.75, 1.0, None)]
    assert rows(path, "SELECT expert, role FROM experts") == [(0, "clean"), (1, "perturbed")]
    assert rows(path, "PRAGMA user_version") == [(schema.SCHEMA_VERSION,)]
    assert rows(path, "SELECT code FROM events") == [("migrated",)]
    assert migrate(path) is None
    with DynamicsLogger(path) as logger:
        logger.log(20, STEP)
    assert len(rows(path)) == 3


def test_a_run_of_version_1_gets_the_columns_of_version_2_and_keeps_its_rows(path: Path):
    written(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO layers (step, layer, expert, source, norm) VALUES (0, 0, 1, 'isolated', 0.5)")
        for name in ("half_product", "half_product_clean"):
            connection.execute(f"ALTER TABLE layers DROP COLUMN {name}")
        connection.execute("DELETE FROM run WHERE key = 'checksums'")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    assert migrate(path).name == "dynamics.db.v1"
    assert rows(path, "SELECT norm, half_product, half_product_clean FROM layers") == [(0.5, None, None)]
    assert rows(path, "PRAGMA user_version") == [(schema.SCHEMA_VERSION,)]


def test_a_run_of_version_2_gets_the_table_of_version_3_and_keeps_its_rows(path: Path):
    written(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO layers (step, layer, expert, source, norm) VALUES (0, 0, 1, 'isolated', 0.5)")
        connection.execute("DROP TABLE pairs")
        connection.execute("DELETE FROM run WHERE key = 'checksums'")
        connection.execute("PRAGMA user_version = 2")
        connection.commit()
    (file,), _ = read_files([path])
    assert (len(file.pairs), file.notes) == (0, ())
    with DynamicsLogger(path) as logger:
        logger.log(100, STEP | {"pairs": [{"layer": 0, "expert": 0, "other": 1, "half_product": 0.25}]})
    assert rows(path, "SELECT norm FROM layers") == [(0.5,)]
    assert rows(path, "SELECT step, other, half_product, output_distance FROM pairs") == [(100, 1, 0.25, None)]
    assert rows(path, "PRAGMA user_version") == [(schema.SCHEMA_VERSION,)]
    assert rows(path, "SELECT message FROM events") == [(f"upgraded from schema version 2 to {schema.SCHEMA_VERSION}",)]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.db")), ids=lambda example: example.stem)
def test_each_example_is_upgraded_and_continued(example: Path, path: Path):
    path.parent.mkdir(parents=True)
    path.write_bytes(example.read_bytes())
    before = rows(path)
    migrate(path)
    with DynamicsLogger(path, resume="must") as logger:
        logger.log(logger.last_step + 1, STEP)
    after = rows(path)
    assert [row[: len(before[0])] for row in after[:-1]] == before
    (run,), _ = read_files([path])
    assert run.damage == ()


def test_a_table_without_a_key_gets_one_and_the_last_row_of_a_step_stays(path: Path):
    migrate(documented(path, *WITHOUT_A_KEY))
    assert rows(path, 'SELECT step, "odd ""name", expert_1_top_norm FROM dynamics ORDER BY step') == [
        (0, "b", 4.0),
        (10, "c", 6.0),
    ]
    with DynamicsLogger(path) as logger:
        logger.log(10, STEP)
    assert len(rows(path)) == 2


@pytest.mark.parametrize(
    ("statements", "why"),
    [
        (["CREATE TABLE dynamics (epoch INTEGER, expert_0_top_norm REAL)"], "no column `step`; its columns are epoch"),
        (
            ["CREATE TABLE dynamics (step REAL, x REAL)", "INSERT INTO dynamics VALUES (1, 1), (1.5, 2), (NULL, 3)"],
            "in 2 rows of table `dynamics` the step is not a whole number, first in row 2",
        ),
        (["CREATE TABLE other (x)"], "holds other but no table `dynamics`"),
    ],
)
def test_a_file_that_cannot_be_upgraded_stays_unchanged(path: Path, statements: list[str], why: str):
    before = documented(path, *statements).read_bytes()
    with pytest.raises(LoggerError, match=why):
        migrate(path)
    assert path.read_bytes() == before
    assert not [file for file in path.parent.iterdir() if "upgraded" in file.name or ".v0" in file.name]


def test_a_run_that_is_being_written_is_not_upgraded(path: Path):
    documented(path)
    with DynamicsLogger(path):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 0")
        with pytest.raises(LoggerError, match="is being written"):
            migrate(path)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_file_that_another_program_has_open_is_not_upgraded_and_loses_nothing(path: Path, mode: str):
    with closing(sqlite3.connect(documented(path), isolation_level=None)) as other:
        other.execute(f"PRAGMA journal_mode = {mode}")
        other.execute("INSERT INTO dynamics (step) VALUES (20)")
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO dynamics (step) VALUES (30)")
        with pytest.raises(LoggerError, match="cannot be upgraded while another program has it open"):
            migrate(path)
        other.execute("COMMIT")
    migrate(path)
    for file in (path, Path(f"{path}.v0")):
        assert [step for (step,) in rows(file, "SELECT step FROM dynamics ORDER BY step")] == [0, 10, 20, 30]


def test_a_file_is_upgraded_through_a_link(path: Path, tmp_path: Path):
    documented(path)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    assert migrate(link) == Path(f"{path}.v0")
    assert link.is_symlink()
    assert rows(link, "PRAGMA user_version") == [(schema.SCHEMA_VERSION,)]


def test_a_snapshot_never_replaces_the_run_itself(path: Path):
    written(path)
    with pytest.raises(LoggerError, match="is the run file itself"):
        snapshot(path, path, overwrite=True)


def test_facts_of_other_programs_do_not_stop_the_list(path: Path, capsys):
    written(path, planned_steps="many", exit_state=None, **{"config.seed": "3", "config.perturbation_scale": []})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO run VALUES ('empty', NULL), ('text', 'no JSON')")
    assert main(["runs", str(path.parent)]) == 0
    assert "unreadable" not in capsys.readouterr().out
    run = summarize(path)
    assert (run.planned_steps, run.seed, run.perturbation_scale) == (None, 3, None)


def test_reading_the_status_never_locks_a_training_out_of_its_file(path: Path):
    written(path)
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            summarize(path)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(30):
            DynamicsLogger(path).close()
    finally:
        stop.set()
        watcher.join()


def test_the_command_upgrades_many_files(tmp_path: Path, capsys):
    files = [documented(tmp_path / "a.db"), written(tmp_path / "b.db")]
    assert main(["migrate", *map(str, files)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{files[0]}: upgraded; the original is {files[0]}.v0",
        f"{files[1]}: has the current version",
    ]


def test_the_commands_need_no_torch(path: Path):
    written(path)
    program = f"""if True:
        import sys
        sys.modules["torch"] = None
        from prismatic.cli import main
        sys.exit(main(["runs", {str(path.parent)!r}]))"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True).returncode == 0
