"""Reading untrusted run files: each bad file gets its error, and each readable file is read exactly."""

from __future__ import annotations

import json
import math
import os
import random
import re
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismatic import DynamicsLogger
from prismatic.contract import schema
from prismatic.errors import LoggerError
from prismatic.runfile.manage import snapshot
from tests.support import bad_files
from validation.files import errors
from validation.files.errors import RunFileError
from validation.files.limits import ReadLimits
from validation.files.read_files import find_files, read_files
from validation.files.run_file import Rejected, RunFile
from validation.files.sandbox import sqlite_client
from validation.files.tables.tidy import COMPARED, COPIED
from validation.query.database import connect, open_database, relations_of
from validation.query.questions import ask

READ = "read"  # the file is a run; otherwise the id of the error. The words are in the error, or in `described(run)`
CASES: list[tuple[Callable[[Path], object], str, str]] = [
    (bad_files.empty, "not_a_run", "an empty file (0 bytes)"),
    (bad_files.csv, "not_a_run", "found text ('step,expert_0_top_norm"),
    (bad_files.blank_lines, "not_a_run", "found text ('')"),
    (bad_files.utf8_cut_in_a_character, "not_a_run", "found text"),
    (bad_files.gzipped, "not_a_run", "a gzip archive"),
    (bad_files.png, "not_a_run", "a PNG image"),
    (bad_files.encrypted, "not_a_run", "may be encrypted"),
    (bad_files.zeros, "not_a_run", "only zero bytes"),
    (bad_files.lfs_pointer, "not_a_run", "a Git LFS pointer"),
    (bad_files.wal_instead_of_database, "not_a_run", "the -wal file"),
    (bad_files.magic_only, "truncated", "found 16"),
    (bad_files.half_of_magic, "truncated", "found 8"),
    (bad_files.half_a_header, "truncated", "found 50"),
    (bad_files.header_only, "truncated", ""),
    (bad_files.one_page, "truncated", ""),
    (bad_files.half_a_file, "truncated", ""),
    (bad_files.last_byte_lost, "truncated", ""),
    (bad_files.cut_by_a_writer_without_page_count, "truncated", "damage in `dynamics`"),
    (bad_files.page_count_bomb, "truncated", ""),
    (bad_files.root_page_flipped, "truncated", "damage in `dynamics`"),
    (bad_files.btree_that_holds_itself, "truncated", "damage in `dynamics`"),
    (bad_files.garbage_schema, "truncated", "malformed database schema"),
    (bad_files.schema_that_is_not_utf8, READ, "3 rows"),
    (bad_files.other_tables, "wrong_schema", "found the tables: users, <b>bold</b>"),
    (bad_files.no_tables, "wrong_schema", "found the tables: none"),
    (bad_files.view, "wrong_schema", "found a view"),
    (bad_files.endless_view, "wrong_schema", "found a view"),
    (bad_files.virtual_table, "wrong_schema", "found a virtual table"),
    (bad_files.virtual_table_with_a_forged_root, "wrong_schema", "found a virtual table"),
    (bad_files.view_disguised_as_a_table, "truncated", "malformed database schema"),
    (bad_files.generated_column, "wrong_schema", "generated ones: expert_0_top_norm"),
    (bad_files.stored_generated_column, "wrong_schema", "generated ones: expert_0_top_norm"),
    (bad_files.no_step, "wrong_schema", "found: epoch, expert_0_top_norm"),
    (bad_files.no_expert_columns, "wrong_schema", "found: step, loss, accuracy, expert_0_accuracy"),
    (bad_files.means_instead_of_norms, "wrong_schema", "found means of gradient entries: step, expert_0_top_mean"),
    (bad_files.unknown_layer_metrics, "wrong_schema", "found: step, layer_0_expert_0_entropy, layer_00_expert"),
    (bad_files.unicode_digits, "wrong_schema", "like expert_0_top_norm"),
    (bad_files.text_value, "wrong_schema", "`expert_0_bottom_norm` of `dynamics`, found TEXT ('<script>"),
    (bad_files.blob_value, "wrong_schema", "found BLOB (b'\\x00\\x01\\x02') at step 4"),
    (bad_files.float32_value, "wrong_schema", "at step 4; SQLite stores a numpy.float32"),
    (bad_files.text_in_loss, "wrong_schema", "column `loss` of `dynamics`, found TEXT ('n/a') at step 1"),
    (bad_files.norms_declared_as_text, "wrong_schema", "`expert_0_top_norm` of `dynamics`, found TEXT ('2')"),
    (bad_files.null_step, "wrong_schema", "an integer in every row's `step`, found NULL"),
    (bad_files.half_step, "wrong_schema", "found REAL (1.5)"),
    (bad_files.text_step, "wrong_schema", "found TEXT ('one')"),
    (bad_files.blob_step, "wrong_schema", "Write int(step)"),
    (bad_files.text_too_long, "too_large", "limit `row_bytes`"),
    (bad_files.whole_real_steps, READ, "3 rows, steps 0 to 2"),
    (bad_files.duplicated_steps, READ, "3 rows, steps 1 to 3, 2 duplicates"),
    (bad_files.unordered_steps, READ, "4 rows, steps -5 to 3, 0 duplicates"),
    (bad_files.extreme_steps, READ, f"3 rows, steps {-(2**63)} to {2**63 - 1}"),
    (bad_files.step_gaps, READ, "3 rows, steps 0 to 5000"),
    (bad_files.infinities, READ, "1 rows"),
    (bad_files.huge_integers, READ, "1 rows"),
    (bad_files.nulls, READ, "2 rows"),
    (bad_files.many_columns, READ, "667 experts"),
    (
        bad_files.names_as_weapons,
        READ,
        '1 experts, ignored <img src=x onerror=alert(1)>|a"; DROP TABLE dynamics; --|new\ufffdline',
    ),
    (
        bad_files.look_alike_names,
        READ,
        "1 experts, ignored expert_00_top_norm|Expert_1_top_norm|expert_1_top_norm |expert_9",
    ),
    (bad_files.column_names_not_utf8, READ, "ignored \ufffd\ufffdzzy"),
    (
        bad_files.other_writer,
        READ,
        "1 experts, ignored ts|num_experts|expert_1_note, wal False",
    ),
    (bad_files.triggers, READ, "40 rows"),
    (bad_files.without_rowid, READ, "2 rows, steps 1 to 2"),
    (bad_files.rowid_names_taken, READ, "2 rows, steps 1 to 2"),
    (bad_files.checks_that_call_functions, READ, "3 rows"),
    (bad_files.indexes_on_expressions, READ, "3 rows"),
    (bad_files.utf16, READ, "3 rows"),
    (bad_files.large_ignored_column, READ, "ignored picture"),
    (bad_files.one_row, READ, "1 rows, steps 0 to 0"),
    (bad_files.no_rows, READ, "0 rows"),
    (bad_files.documented_minimum, READ, "10 rows, steps 0 to 9, 0 duplicates, 3 experts"),
    (bad_files.newer_version, READ, "written by schema version 99"),
    (bad_files.only_columns_per_layer, READ, "3 rows, steps 0 to 2, 0 duplicates, 2 experts, ignored , wal False"),
    (bad_files.columns_per_layer_and_means, READ, "3 rows, steps 0 to 2, 0 duplicates, 2 experts, ignored , wal False"),
    (bad_files.columns_per_layer_and_the_table, READ, "were not used: the file has a table `layers` as well"),
    (bad_files.only_whole_norms_per_layer, READ, "the file has no tier norms"),
    (
        bad_files.text_in_a_layer,
        "wrong_schema",
        "column `layer_0_expert_0_top_norm` of `dynamics`, found TEXT ('high')",
    ),
    (bad_files.only_gradient_norms, READ, "expert_{i}_grad_norm was read as the norm of expert i's whole gradient"),
    (bad_files.only_whole_norms, READ, "the file has no tier norms"),
    (bad_files.a_mean_for_a_norm, READ, "expert_0_top_mean and 1 more was not used: a mean is not a norm"),
    (bad_files.norms_with_their_statistics, READ, "2 experts, ignored ts|num_experts, wal False, 0 events, notes ()"),
    (bad_files.histograms, READ, "notes ()"),
    (bad_files.histograms_with_text, READ, "table `histograms` was not read: expected numbers in column `bin`"),
    (bad_files.histograms_are_a_view, READ, "expected `histograms` to be a plain table, found a view"),
    (bad_files.page_that_belongs_to_nothing, READ, "the file is damaged: *** in database main ***"),
    (bad_files.another_table_damaged, READ, "the file is damaged: database disk image is malformed"),
    (bad_files.strict_table, READ, "3 rows"),
    (bad_files.freed_pages, READ, "40 rows, steps 0 to 39"),
    (bad_files.trailing_garbage, READ, "40 rows"),
    (bad_files.two_files_in_one, READ, "40 rows"),
    (bad_files.million_nested_parentheses, "truncated", ""),
    (bad_files.zip_of_a_cut_file, "truncated", "zip_of_a_cut_file.db: expected at least 512 bytes"),
    (
        bad_files.zip_of_nothing,
        "not_a_run",
        "expected a zip archive with run files (*.db or *.sqlite), found one with: none",
    ),
    (bad_files.zip_of_other_files, "not_a_run", "found one with: results/<b>.csv, notes.txt"),
    (bad_files.checkpoint, "not_a_run", "found a PyTorch checkpoint"),
    (bad_files.zip_in_a_zip, "not_a_run", "found one with: runs.zip"),
    (bad_files.zip_called_a_run_in_a_zip, "not_a_run", "found a zip archive (a PyTorch checkpoint is one, too)"),
    (bad_files.zip_cut_short, "truncated", "expected an intact zip archive, found damage (File is not a zip file)"),
    (bad_files.zip_with_a_password, "unreadable", "expected a file without a password, found an encrypted one"),
    (bad_files.zip_packed_in_an_unknown_way, "unreadable", "found another one (That compression method"),
    (bad_files.zip_with_a_changed_byte, "truncated", "found damage (Bad CRC-32"),
    (bad_files.zip_that_asks_for_memory, "too_large", "limit `memory_bytes`"),
    (bad_files.zip_bomb, "too_large", "at most 536,870,912 (limit `file_bytes`)"),
    (bad_files.zip_of_a_link, "not_a_run", "found text ('/etc/passwd')"),
    (bad_files.facts_not_utf8, READ, "facts {'host': '\ufffd\ufffdA'}"),
    (bad_files.giant_fact, READ, "not read: 1 fact of table `run`"),
    (bad_files.gigantic_fact, READ, "table `run` was not read: expected at most"),
    (bad_files.endless_facts, READ, "not read: 500 facts of table `run`"),
    (bad_files.odd_facts, READ, "not read: 1 fact of table `run`"),
    (bad_files.facts_are_a_view, READ, "table `run` was not read: expected `run` to be a plain table, found a view"),
    (
        bad_files.layers_with_text,
        READ,
        "table `layers` was not read: expected numbers in column `top_norm` of `layers`",
    ),
    (bad_files.layers_of_another_program, READ, "table `layers` was not read: expected known columns"),
    (bad_files.layers_damaged, READ, "table `layers` was not read: expected an intact SQLite database"),
    (bad_files.events_in_masses, READ, "10000 events"),
    (bad_files.wal_left_behind, "wal_missing", "without its -wal file"),
    (
        bad_files.wal_left_behind_with_some_rows,
        READ,
        "20 rows, steps 0 to 19, 0 duplicates, 2 experts, ignored , wal True",
    ),
    (bad_files.wal_left_behind_without_rows, "wal_missing", "without its -wal file"),
]
Answers = dict[str, RunFile | Rejected]


def described(run: RunFile) -> str:
    steps = run.wide["step"].to_pylist()
    return (
        f"{len(steps)} rows, steps {steps[0] if steps else None} to {steps[-1] if steps else None}, "
        f"{run.duplicates} duplicates, {run.num_experts} experts, ignored {'|'.join(run.ignored)}, wal {run.wal}, "
        f"{len(run.events)} events, notes {run.notes}, facts {str(run.facts)[:200]}, damage {run.damage}"
    )


def read_one(path: Path, **options: object) -> RunFile | Rejected:
    found, rejected = read_files([path], **options)  # type: ignore[arg-type]
    return [*found, *rejected][0]


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("odd")
    paths = [folder / f"{write.__name__}.db" for write, _, _ in CASES]
    for path, (write, _, _) in zip(paths, CASES, strict=True):
        write(path)
    return paths


@pytest.fixture(scope="module", params=[True, False], ids=["private copy", "in place"])
def answers(request: pytest.FixtureRequest, odd_files: list[Path]) -> Answers:
    """Read all odd files in one batch with one child, so that each also shows that the earlier ones did no harm."""
    found, rejected = read_files(odd_files, private=odd_files if request.param else ())
    assert len(found) + len(rejected) == len(odd_files)
    return {one.path.stem: one for one in (*map(unhurried, found), *rejected)}


def unhurried(run: RunFile) -> RunFile | Rejected:
    """Return the run; read it again if a busy machine left no time for the last check, which a small file passes."""
    again: RunFile | Rejected = run
    for _ in range(5):
        if isinstance(again, Rejected) or not any("to be checked in time" in note for note in again.notes):
            break
        again = read_one(again.path)
    return again


@pytest.mark.parametrize(("write", "expected", "words"), CASES, ids=[write.__name__ for write, _, _ in CASES])
def test_each_odd_file_is_read_or_gets_its_error(
    answers: Answers, write: Callable[[Path], object], expected: str, words: str
) -> None:
    answer = answers[write.__name__]
    if isinstance(answer, RunFile):
        assert (READ, words in described(answer)) == (expected, True), described(answer)
    else:
        assert (answer.error.id, words in str(answer.error)) == (expected, True), str(answer.error)


def test_every_sentence_names_the_file_what_was_expected_what_was_found_and_what_to_do(answers: Answers) -> None:
    for answer in answers.values():
        if isinstance(answer, Rejected):
            sentence = str(answer.error)
            assert sentence.startswith(f"{answer.name}: expected ")
            assert "found" in answer.error.evidence
            assert sentence.endswith(f"{answer.error.fix}.")
            assert not re.search(r"[ (`]\?", sentence)  # no fact is missing


@pytest.mark.parametrize("given", ["/nonexist", "nonexist", "a/b/nonexist.db", "./x/", "../nonexist"])
def test_an_error_names_the_path_as_it_was_given(given: str) -> None:
    _, (rejected,) = read_files([given])
    assert str(rejected.error).startswith(f"{given}: expected a file, found nothing there")


def test_an_error_in_a_folder_or_archive_names_the_whole_path(tmp_path: Path) -> None:
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/dynamics.db").write_text("hello")
    bad_files.archive(tmp_path / "runs.zip", ("a/b/dynamics.db", b"hello"))
    _, rejected = read_files([str(tmp_path / "runs"), str(tmp_path / "runs.zip")])
    names = [f"{tmp_path}/runs/a/dynamics.db", f"b/dynamics.db in {tmp_path}/runs.zip"]
    assert [one.error.name for one in rejected] == [one.name for one in rejected] == names


def test_odd_files_are_left_as_they_were(tmp_path: Path) -> None:
    bad_files.wal_pair(tmp_path / "dynamics.db", shm=True)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    read_one(tmp_path / "dynamics.db")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", RunFileError.__subclasses__(), ids=lambda kind: kind.id)
def test_the_errors_are_the_diagnostics_ids(kind: type[RunFileError]) -> None:
    assert kind.__doc__
    assert kind.id == "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).lstrip("_")
    assert f"+-- {kind.__name__}" in str(errors.__doc__)


# -- Paths ------------------------------------------------------------------------------------------------------------


def test_a_folder_is_searched_for_run_files_at_any_depth(tmp_path: Path) -> None:
    for index, folder in enumerate(("b", "a/deep", "c")):
        (tmp_path / folder).mkdir(parents=True)
        bad_files.good(tmp_path / folder / "dynamics.db", steps=3 + index)
    found, rejected = read_files([tmp_path])
    assert [run.name for run in found] == ["deep/dynamics.db", "b/dynamics.db", "c/dynamics.db"]
    assert not rejected


def test_a_file_of_a_training_without_experts_is_not_called_another_programs(tmp_path: Path) -> None:
    path = tmp_path / "dynamics.db"
    with DynamicsLogger(path) as logger:
        logger.log_run({"routers": 0})
        logger.event("no_router", "no layer of experts", level="warning")
    found, (rejected,) = read_files([path])
    assert (found, rejected.error.id) == ([], "wrong_schema")
    assert "DynamicsLogger wrote this file and got no expert to log" in str(rejected.error)
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA application_id = 0")
    _, (rejected,) = read_files([path])
    assert "DynamicsLogger did not write this table" in str(rejected.error)


def test_a_folder_of_files_of_other_names_is_searched_for_databases(tmp_path: Path) -> None:
    for index, name in enumerate(("b.db", "deep/a.sqlite", "._b.db")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        bad_files.good(tmp_path / name, steps=3 + index)
    (tmp_path / "notes.db").write_text("no database")
    found, rejected = read_files([tmp_path])
    assert [run.name for run in found] == [f"{tmp_path.name}/b.db", "deep/a.sqlite"]
    assert [one.error.id for one in rejected] == ["not_a_run"]
    bad_files.good(tmp_path / "deep" / "dynamics.db", steps=9)
    found, rejected = read_files([tmp_path])  # beside run files of our name, others are others
    assert ([run.name for run in found], rejected) == (["deep/dynamics.db"], [])


def test_paths_without_a_file_are_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path / "missing.db", tmp_path, tmp_path / "pipe", Path("a\0b"), tmp_path / ("x" * 300)]
    found, rejected = read_files(paths)
    words = ["nothing there", "files named dynamics.db, or other *.db files", "a device or pipe", "refuses", "refuses"]
    assert not found
    assert [one.error.id for one in rejected] == ["unreadable"] * 5
    assert all(word in str(one.error) for word, one in zip(words, rejected, strict=True))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_an_error(tmp_path: Path) -> None:
    path = bad_files.good(tmp_path / "dynamics.db")
    path.chmod(0)
    answer = read_one(path)
    assert isinstance(answer, Rejected)
    assert "Permission denied" in str(answer.error)


def test_what_is_no_file_in_a_folder_has_its_own_sentence_and_hides_no_run(tmp_path: Path) -> None:
    for name in ("run", "pipe", "device", "nothing", "loop", "folder"):
        (tmp_path / name).mkdir()
    bad_files.good(tmp_path / "run" / "dynamics.db")
    os.mkfifo(tmp_path / "pipe" / "dynamics.db")
    (tmp_path / "folder" / "dynamics.db").mkdir()
    for name, target in (("device", "/dev/zero"), ("nothing", "absent"), ("loop", "dynamics.db")):
        (tmp_path / name / "dynamics.db").symlink_to(target)
    found, rejected = read_files([tmp_path])
    assert [run.name for run in found] == ["run/dynamics.db"]
    words = {one.path.parent.name: one.error.evidence for one in rejected}
    assert words["pipe"] == words["device"] == "expected a file, found a device or pipe"
    assert words["nothing"] == "expected a file, found a link to nothing"
    assert words["folder"] == "expected a file, found a folder of that name"
    assert "Too many levels of symbolic links" in words["loop"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user, whom the system refuses")
def test_a_folder_that_cannot_be_listed_is_an_error_and_hides_no_run(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "closed").mkdir()
        bad_files.good(folder / "dynamics.db")
        folder.chmod(0o755)
        (folder / "closed").chmod(0)
        os.seteuid(65534)
        try:
            inside, whole = [*find_files([folder / "closed"])], [*find_files([folder])]
        finally:
            os.seteuid(0)
    assert [(file.path.name, file.code, file.problem) for file in (*inside, *whole)] == [
        ("closed", "closed_folder", "Permission denied"),
        ("closed", "closed_folder", "Permission denied"),
        ("dynamics.db", "", ""),
    ]


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come after the folder was searched."""
    os.mkfifo(tmp_path / "dynamics.db")
    monkeypatch.setattr("validation.files.read_files._problem_of", lambda path: ("", ""))
    monkeypatch.setattr("validation.files.read_files.is_archive", lambda path: False)
    _, (rejected,) = read_files([tmp_path / "dynamics.db"])
    assert rejected.error.evidence == "expected a file, found a device or pipe"


@pytest.mark.parametrize(
    "value",
    ["9" * 400, "[" * 1000 + "]" * 1000, '{"a": ' * 20 + "1" + "}" * 20, r'"\ud800"', r'[{"\udfff": 1}]', "1" * 5000],
)
def test_a_fact_that_is_deep_huge_or_half_a_character_stays_text(tmp_path: Path, value: str) -> None:
    path = bad_files.good(tmp_path / "dynamics.db")
    bad_files.database(path, ("INSERT INTO run VALUES (?, ?)", [("odd", value)]))
    run = read_one(path)
    assert isinstance(run, RunFile)
    assert run.facts["odd"] == value


@pytest.mark.parametrize("name", ["a ?mode=rwc#%41&b.db", "ünïcode 数.db", "'quoted\".db", "new\nline.db", "\udcff.db"])
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    answer = read_one(bad_files.good(tmp_path / name))
    assert isinstance(answer, RunFile)
    assert answer.name.isprintable()


def test_names_are_shown_without_misleading_characters(tmp_path: Path) -> None:
    path = bad_files.good(tmp_path / "dynamics.db")
    found, _ = read_files([(path, "evil\u202egpj.exe\x1b[2J" + "x" * 100)])
    assert found[0].name == "evil\ufffdgpj.exe\ufffd[2J" + "x" * 43 + "…"


def test_the_same_file_twice_is_read_once_and_noted(tmp_path: Path) -> None:
    path = bad_files.good(tmp_path / "dynamics.db")
    found, rejected = read_files([path, (path, "again.db")])
    assert len(found) == 1
    assert found[0].notes == ("the same file was given again as again.db; it is read once",)
    assert not rejected


def test_two_files_of_one_run_hash_get_different_ids(tmp_path: Path) -> None:
    paths = [bad_files.good(tmp_path / f"{seed}.db", seed=seed) for seed in range(3)]
    found, _ = read_files(paths)
    assert [run.id for run in found] == ["83492c812", "83492c812-2", "83492c812-3"]


def test_progress_is_reported_before_each_file_and_at_the_end(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    paths = [bad_files.good(tmp_path / "good.db"), tmp_path / "missing.db"]
    read_files(paths, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, 2), (1, 2), (2, 2)]


# -- Live files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shm", [True, False], ids=["after a crash", "copied as a pair"])
def test_rows_in_a_wal_beside_the_file_are_read(tmp_path: Path, shm: bool) -> None:
    bad_files.wal_pair(tmp_path / "dynamics.db", kept=20, shm=shm)
    answer = read_one(tmp_path / "dynamics.db")
    assert isinstance(answer, RunFile)
    assert (len(answer.wide), answer.wal) == (50, False)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_live_file_is_read_without_ever_locking_its_writer_out(tmp_path: Path, mode: str) -> None:
    path = bad_files.good(tmp_path / "dynamics.db", steps=3000)
    with bad_files.writer(path, mode, "write") as writer:
        answers = [read_one(path) for _ in range(4)]
        output, _ = writer.communicate()
    assert [type(answer) for answer in answers] == [RunFile] * 4, answers
    assert (writer.returncode, int(output.split()[-1]) > 3000) == (0, True)


def test_a_file_that_a_writer_keeps_locked_is_reported_as_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bad_files.good(tmp_path / "dynamics.db")
    change_worker(tmp_path, monkeypatch, "BUSY_SECONDS = 2.0", "BUSY_SECONDS = 0.1")
    with bad_files.writer(path, "delete", "lock") as writer:
        answer = read_one(path)
        writer.communicate()
    assert isinstance(answer, Rejected)
    assert "locked by another program" in str(answer.error)


def test_an_unfinished_write_is_named(tmp_path: Path) -> None:
    source = bad_files.good(tmp_path / "source.db", steps=2000)
    path = tmp_path / "dynamics.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size=1")
        writer.execute("BEGIN")
        writer.execute("UPDATE dynamics SET loss = 1")
        for suffix in ("", "-journal"):
            Path(f"{path}{suffix}").write_bytes(Path(f"{source}{suffix}").read_bytes())
    answer = read_one(path)
    assert isinstance(answer, Rejected)
    assert "unfinished write" in str(answer.error)


@pytest.mark.parametrize("end", ["-journal", "-wal", "-shm"])
def test_a_pipe_beside_a_run_is_named_and_nobody_waits_for_it(tmp_path: Path, end: str) -> None:
    path = bad_files.good(tmp_path / "dynamics.db")
    os.mkfifo(f"{path}{end}")
    answer = read_one(path)
    assert isinstance(answer, Rejected)
    assert f"found dynamics.db{end}, a device, a folder or a pipe" in str(answer.error)
    with pytest.raises(LoggerError, match=f"dynamics.db{end} beside it is no regular file"):
        snapshot(path, tmp_path / "copy.db")
    with pytest.raises(LoggerError, match=f"dynamics.db{end}: is no regular file"):
        DynamicsLogger(path)
    link = tmp_path / "link.db"
    link.symlink_to(path)
    linked = read_one(link)
    assert isinstance(linked, Rejected)
    assert f"found dynamics.db{end}, a device" in str(linked.error)


# -- Limits, and a child that dies, hangs or lies ---------------------------------------------------------------------


def change_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Have the child run a changed sqlite_worker.py."""
    source = sqlite_client.WORKER.read_text()
    assert old in source
    (tmp_path / "changed_worker.py").write_text(source.replace(old, new))
    monkeypatch.setattr(sqlite_client, "WORKER", tmp_path / "changed_worker.py")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (ReadLimits(file_bytes=1000), "at most 1,000 (limit `file_bytes`)"),
        (ReadLimits(rows=30), "at most 30 (limit `rows`)"),
        (ReadLimits(columns=10), "at most 10 (limit `columns`)"),
        (ReadLimits(values=100), "at most 100 (limit `values`)"),
        (ReadLimits(expert_rows=119), "at most 119 (limit `expert_rows`)"),
        (ReadLimits(seconds=0), "within 0 seconds (limit `seconds`)"),
    ],
)
def test_each_limit_is_named_when_it_is_met(tmp_path: Path, limits: ReadLimits, words: str) -> None:
    answer = read_one(bad_files.good(tmp_path / "dynamics.db"), limits=limits)
    assert isinstance(answer, Rejected)
    assert words in str(answer.error)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit memory")
def test_a_file_that_needs_too_much_memory_is_too_large(tmp_path: Path) -> None:
    path = bad_files.database(tmp_path / "dynamics.db", *bad_files.dynamics(bad_files.numbers(range(50_000))))
    answer = read_one(path, limits=ReadLimits(memory_bytes=1 << 20))
    assert isinstance(answer, Rejected)
    assert "at most 1,048,576 (limit `memory_bytes`)" in str(answer.error)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_the_child_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, owned = "wal = inspect(path, immutable)", str(tmp_path / "owned")
    change_worker(tmp_path, monkeypatch, step, f"os.write(os.open({owned!r}, os.O_CREAT | os.O_WRONLY), b'x'); {step}")
    answer = read_one(bad_files.good(tmp_path / "dynamics.db"))
    assert isinstance(answer, Rejected)
    assert any(words in str(answer.error) for words in ("not permitted", "File too large"))  # by walls, by limits
    assert not (tmp_path / "owned").exists() or not (tmp_path / "owned").stat().st_size


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        ("os.kill(os.getpid(), 9)", "exit code -9"),
        ("os.abort()", "exit code -6"),
        ("bytearray(8 << 30)", "limit `memory_bytes`"),
        ("time.sleep(60)", "limit `seconds`"),
        ("[0 for _ in iter(int, 1)]", "limit `seconds`"),
    ],
)
def test_a_file_that_kills_or_hangs_the_child_does_not_affect_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, words: str
) -> None:
    step = "wal = inspect(path, immutable)"
    change_worker(tmp_path, monkeypatch, step, f"{step}\n    if 'killer' in path:\n        {attack}")
    monkeypatch.setattr(sqlite_client, "GRACE_SECONDS", 0.2)
    paths = [
        bad_files.good(tmp_path / f"{i}-{name}.db", seed=i) for i, name in enumerate(("before", "killer", "after"))
    ]
    found, rejected = read_files(paths, limits=ReadLimits(seconds=1))
    assert [run.path.stem for run in found] == ["0-before", "2-after"]
    assert words in str(rejected[0].error)


def lie(**changes: object) -> str:
    """Return a header that a child under a hostile file's control could send."""
    header = {"ok": True, "application_id": 0, "version": 1, "wal": False, "lost": False, "notes": [], "ignored": []}
    header |= {"damage": None, "ignored_count": 0}
    return json.dumps({**header, "tables": {"dynamics": [0, [["step", "q"]]]}, **changes})


LIES = {
    "nothing": "",
    "no JSON": "hello",
    "a line without end": "x" * (2 << 20),
    "a list": "[]",
    "deep JSON": "[" * 500_000,
    "no reason": '{"ok": false}',
    "endless rows": lie(tables={"dynamics": [10**12, [["step", "q"]]]}),
    "negative rows": lie(tables={"dynamics": [-1, [["step", "q"]]]}),
    "rows that are true": lie(tables={"dynamics": [True, [["step", "q"]]]}),
    "endless histograms": lie(tables={"dynamics": [0, [["step", "q"]]], "histograms": [10**7, [["bin", "q"]]]}),
    "a layer spelt twice": lie(tables={"dynamics": [0, [["step", "q"], ["layer_00_expert_0_norm", "d"]]]}),
    "an unknown metric": lie(tables={"dynamics": [0, [["step", "q"], ["layer_0_expert_0_x; --", "d"]]]}),
    "SQL for a name": lie(tables={"dynamics": [0, [["step", "q"], ["a FROM runs; --", "d"]]]}),
    "a name with an end": lie(tables={"dynamics": [0, [["step", "q"], ["expert_0_top_norm\n", "d"]]]}),
    "a name twice": lie(tables={"dynamics": [0, [["step", "q"], ["step", "q"]]]}),
    "text for numbers": lie(tables={"dynamics": [0, [["step", "t"]]]}),
    "no steps": lie(tables={"dynamics": [0, [["loss", "d"]]]}),
    "no dynamics": lie(tables={"run": [0, [["key", "t"]]]}),
    "another table": lie(tables={"sqlite_master": [0, [["sql", "t"]]]}),
    "fewer values than rows": lie(tables={"dynamics": [100, [["step", "q"]]]}),
    "tables in a list": lie(tables=[["dynamics", 0, []]]),
    "one table too many": lie(tables={"dynamics": [0, [["step", "q"]]], "tiers": [200_000, [["layer", "q"]]]}),
    "an infinite version": lie(version=math.inf),
    "a version like a novel": lie(version="x" * 1000),
    "huge text": lie(tables={"dynamics": [0, [["step", "q"]]], "run": [1, [["key", "t"]]]}) + "\n\xff\xff\xff\x7f",
    "text that is not UTF-8": lie(tables={"dynamics": [0, [["step", "q"]]], "run": [1, [["key", "t"]]]})
    + "\n\x01\0\0\0\xff",
}


@pytest.mark.parametrize("answer", LIES.values(), ids=LIES.keys())
def test_a_lying_child_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    liar = tmp_path / "liar.py"
    liar.write_text(f"import sys; input(); sys.stdout.buffer.write({answer!r}.encode('latin-1') + b'\\n')")
    monkeypatch.setattr(sqlite_client, "WORKER", liar)
    rejected = read_one(bad_files.good(tmp_path / "dynamics.db"))
    assert isinstance(rejected, Rejected)
    assert rejected.error.id == "unreadable"


def test_the_words_of_a_lying_child_are_shown_as_plain_short_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    details = {"looks": "\x1b[31m{0.__class__}" + "x" * 1000, "a": {"b": []}, "most": 10**400}
    liar = tmp_path / "liar.py"
    liar.write_text(f"input(); print({json.dumps({'ok': False, 'code': 'not_sqlite', 'details': details})!r})")
    monkeypatch.setattr(sqlite_client, "WORKER", liar)
    rejected = read_one(bad_files.good(tmp_path / "dynamics.db"))
    assert isinstance(rejected, Rejected)
    assert "found \ufffd[31m{0.__class__}xxx" in str(rejected.error)
    assert len(str(rejected.error)) < 600


def test_flipped_bytes_never_break_the_reader(tmp_path: Path) -> None:
    data, dice = bad_files.good(tmp_path / "good.db", steps=12).read_bytes(), random.Random(4)
    for index in range(300):
        mutant = bytearray(data)
        for _ in range(dice.choice([1, 4, 30])):
            mutant[dice.randrange(dice.choice([200, len(data)]))] = dice.randrange(256)
        (tmp_path / f"{index}.db").write_bytes(mutant)
    found, rejected = read_files(sorted(tmp_path.glob("*.db")), limits=ReadLimits(seconds=2))
    again = sum("given again" in note for run in found for note in run.notes)
    assert len(found) + len(rejected) + again == 301
    assert not [str(one.error) for one in rejected if one.error.id in ("unreadable", "wal_missing", "too_large")]


# -- The numbers are those of the file ---------------------------------------------------------------------------------


def slow_tidy(path: Path) -> list[tuple[object, ...]]:
    """Return the tidy table, built value by value with plain sqlite3, for files that hold each step once."""
    tidy = []
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT * FROM dynamics ORDER BY step")]
    for row in rows:
        experts = sorted({int(name.split("_")[1]) for name in row if name.startswith("expert_")})
        for i in experts:
            tiers = [(row[f"expert_{i}_{tier}_norm"], row[f"expert_0_{tier}_norm"]) for tier in schema.TIERS]
            own = [row.get(f"expert_{i}_{name}") for name in COPIED]
            norm = row.get(f"expert_{i}_{'perturbed' if i else 'clean'}_norm", slow_norm([value for value, _ in tiers]))
            compared = [row.get(f"expert_{i}_{name}") if i else None for name in COMPARED]
            if i and f"expert_{i}_divergence" not in row:
                compared[0] = slow_mean([None if None in pair else abs(pair[0] - pair[1]) for pair in tiers])
            tidy.append((row["step"], i, *own[:3], norm, *own[3:], *compared, row.get("loss")))
    return tidy


def slow_norm(tiers: list[float | None]) -> float | None:
    return None if None in tiers else math.hypot(*(value for value in tiers if value is not None))


def slow_mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if len(known) == len(values) else None


def same(mine: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(mine) == len(other) and all(
        a is b or a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-12))  # type: ignore[arg-type]
        for a, b in zip(mine, other, strict=True)
    )


def fast_tidy(path: Path) -> list[tuple[object, ...]]:
    found, rejected = read_files([path])
    assert not rejected
    with closing(connect(found)) as con:
        return con.execute("SELECT * EXCLUDE (run, role) FROM dynamics ORDER BY step, expert").fetchall()


def assert_same_tidy(path: Path) -> None:
    fast, slow = fast_tidy(path), slow_tidy(path)
    assert len(fast) == len(slow)
    assert all(same(a, b) for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize(
    "write",
    [bad_files.good, bad_files.documented_minimum, bad_files.nulls, bad_files.infinities, bad_files.unordered_steps],
    ids=lambda write: write.__name__,
)
def test_the_tidy_table_holds_what_a_slow_reading_finds(tmp_path: Path, write: Callable[[Path], object]) -> None:
    write(tmp_path / "dynamics.db")
    assert_same_tidy(tmp_path / "dynamics.db")


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.none() | st.floats(-1e100, 1e100) | st.integers(-(2**60), 2**60), min_size=6, max_size=6)))
def test_any_numbers_are_read_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[float | None]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "dynamics.db"
    bad_files.database(path, *bad_files.dynamics((step, *row) for step, row in enumerate(rows)))
    assert_same_tidy(path)


def test_more_rows_than_fit_one_page_of_reading_are_all_read(tmp_path: Path) -> None:
    steps = [step * 7 for step in range(20_001)]
    path = bad_files.database(tmp_path / "dynamics.db", *bad_files.dynamics(bad_files.numbers(steps)))
    answer = read_one(path)
    assert isinstance(answer, RunFile)
    assert answer.wide["step"].to_pylist() == steps


def test_of_several_rows_of_a_step_the_last_counts(answers: Answers) -> None:
    run = answers["duplicated_steps"]
    assert isinstance(run, RunFile)
    assert run.wide["expert_0_top_norm"].to_pylist() == [1.0, 2.0, 1.75]  # rows 0, 4 and 3


def test_the_newest_events_are_kept(answers: Answers) -> None:
    run = answers["events_in_masses"]
    assert isinstance(run, RunFile)
    assert run.events["id"].to_pylist() == list(range(2000, 12_000))
    assert run.events["message"][-1].as_py() == "event 11999"


def test_side_tables_come_with_the_columns_of_the_schema(tmp_path: Path) -> None:
    run = read_one(bad_files.good(tmp_path / "dynamics.db"))
    assert isinstance(run, RunFile)
    for table in ("experts", "tiers", "events", "layers", "pairs", "histograms"):
        assert getattr(run, table).column_names == [column.name for column in schema.TABLES[table][0]]
    assert run.experts["seed"].to_pylist() == [None, 2**62 + 1, 3]
    assert run.layers["source"].to_pylist() == ["merged"] * 120


def test_facts_are_json_or_else_text(tmp_path: Path) -> None:
    run = read_one(bad_files.good(tmp_path / "dynamics.db", seed=5))
    assert isinstance(run, RunFile)
    assert run.facts == {"run_hash": "83492c812abcdef0", "config.seed": 5, "config.merge": "batch", "note": "no JSON"}
    assert run.config == {"seed": 5, "merge": "batch"}
    assert (run.id, run.application_id, run.version) == ("83492c812", schema.APPLICATION_ID, schema.SCHEMA_VERSION)


# -- The connection ---------------------------------------------------------------------------------------------------


def test_runs_has_a_row_per_file(answers: Answers, tmp_path: Path) -> None:
    files = [answer for answer in answers.values() if isinstance(answer, RunFile)]
    with closing(connect(files)) as con:
        rows = con.execute("SELECT run, steps, experts FROM runs").fetchall()
    assert rows == [(run.id, len(run.wide), run.num_experts) for run in files]


def test_roles_come_from_the_file_or_from_the_documentation(tmp_path: Path) -> None:
    bad_files.documented_minimum(tmp_path / "plain.db")
    found, _ = read_files([bad_files.good(tmp_path / "good.db"), tmp_path / "plain.db"])
    with closing(connect(found)) as con:
        roles = con.execute("SELECT DISTINCT expert, role FROM dynamics ORDER BY ALL").fetchall()
    assert roles == [(0, "clean"), (1, "perturbed"), (2, "control"), (2, "perturbed")]


def test_without_runs_the_tables_are_there_and_empty() -> None:
    with closing(connect([])) as con:
        counts = [con.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("runs", "dynamics", "layers")]
    assert counts == [(0,), (0,), (0,)]


def test_runs_that_do_not_fit_into_memory_together_are_too_large(answers: Answers) -> None:
    files = [answer for answer in answers.values() if isinstance(answer, RunFile)]
    with pytest.raises(
        errors.TooLarge, match="all runs together: expected runs that fit into 1 MiB of memory together"
    ):
        open_database(relations_of(files), memory=1 << 20)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "COPY runs TO '/tmp/owned.csv'",
        "ATTACH '/tmp/owned.db'",
        "INSTALL httpfs",
        "SET enable_external_access=true",
        "SELECT * FROM a_python_variable",
    ],
)
def test_the_connection_opens_nothing_outside_itself(sql: str) -> None:
    a_python_variable = pa.table({"secret": [1]})
    with closing(connect([])) as con, pytest.raises(Exception, match=r"disabled|locked|does not exist|denied"):
        con.cursor().execute(sql).fetchall()
    assert len(a_python_variable) == 1


def test_a_question_is_a_file_and_its_parameters_are_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validation.query.questions._sql", lambda name: "SELECT $run AS run")
    with closing(connect([])) as con:
        assert ask(con, "any", run="'; DROP TABLE runs").to_pylist() == [{"run": "'; DROP TABLE runs"}]


@pytest.mark.parametrize("name", ["../queries", "a/b", "", "Name", "a.sql"])
def test_a_question_is_never_a_path(name: str) -> None:
    with closing(connect([])) as con, pytest.raises(ValueError, match="not the name of a question"):
        ask(con, name)


def test_reading_a_small_file_is_fast(tmp_path: Path) -> None:
    path, started = bad_files.good(tmp_path / "dynamics.db"), time.monotonic()
    read_one(path)
    assert time.monotonic() - started < 3


@pytest.mark.long
def test_experts_beyond_sqlites_columns_are_read_like_the_others(tmp_path):
    tiers = ("top_norm", "bottom_norm", "middle_norm", "routing_weight", "bottom_to_middle", "perturbed_norm")
    with DynamicsLogger(tmp_path / "dynamics.db") as logger:
        for step in (10, 20, 30):
            gradients = {f"expert_{i}": dict.fromkeys(tiers, step + i / 1024) for i in range(400)}
            logger.log(step, {"expert_gradients": gradients})
    (run,), _ = read_files([tmp_path / "dynamics.db"])
    assert run.num_experts == 400
    assert run.wide["expert_399_perturbed_norm"].to_pylist() == [step + 399 / 1024 for step in (10, 20, 30)]
    assert run.ignored == ()
