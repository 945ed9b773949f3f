"""A set is read up to its first damage: flipped bits, lost and foreign files, rows in another order, old sets."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.set_files import files_of, of_earlier_version, put_files, read_in_process, with_fitting_manifest
from tests.support.simulated_runs import simulated_run, write
from tests.validation.files.test_sources import assert_equal
from validation import judge, read_sources
from validation.files import parquet_set
from validation.files.errors import NotASet
from validation.files.parquet_set import NO_HASHES, write_set
from validation.files.run_file import RunFile
from validation.files.set_manifest import MANIFEST
from validation.query.set_database import relations_of_sets
from validation.report.exit_code import exit_code

SUPPORTED = {"awakening": 2.0, "divergence": 1.0, "perturbed": 3, "control": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunFile]:
    """Two runs, each of which is a yes under --strict."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        write(simulated_run(seed=seed, **SUPPORTED), folder / f"{seed}.db", planned_steps=600, run_hash=f"{seed}00000")
    found, rejected = read_sources([folder])
    assert not rejected
    assert exit_code(judge(found), strict=True) == 0
    return found


@pytest.fixture(scope="module")
def files(runs: list[RunFile], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a set of these runs, each in a part of its own."""
    folder = tmp_path_factory.mktemp("set")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_set, "PART_BYTES", 1)
        write_set(runs, folder, by_scale=False)
    return files_of(folder)


def outcome(folder: Path, runs: list[RunFile]) -> str:
    """Return "damaged" for a set that is refused, and "same" for one with the same runs; fail for other runs."""
    try:
        found = list(read_in_process(folder))
    except NotASet:
        return "damaged"
    assert len(found) == len(runs)
    for one, other in zip(found, runs, strict=True):
        assert_equal(one, other)
    return "same"


def flip(folder: Path, files: dict[str, bytes], name: str, bit: int, runs: list[RunFile]) -> str:
    """Return the outcome with one flipped bit, which is put right afterwards."""
    data = bytearray(files[name])
    data[bit // 8] ^= 1 << bit % 8
    (folder / name).write_bytes(data)
    found = outcome(folder, runs)
    (folder / name).write_bytes(files[name])
    return found


def flips(folder: Path, files: dict[str, bytes], runs: list[RunFile], count: int) -> set[str]:
    """Return the outcomes of bits that are flipped one at a time, half of them in the manifest."""
    put_files(folder, files)
    assert outcome(folder, runs) == "same"
    dice, tables = random.Random(1), sorted(name for name in files if name.endswith("part-00000.parquet"))
    names = [MANIFEST if number % 2 else dice.choice(tables) for number in range(count)]
    return {flip(folder, files, name, dice.randrange(8 * len(files[name])), runs) for name in names}


def test_no_flipped_bit_in_a_set_gives_other_numbers(tmp_path: Path, files: dict[str, bytes], runs: list[RunFile]):
    assert flips(tmp_path, files, runs, 400) == {"damaged"}


@pytest.mark.long
def test_no_flipped_bit_of_thousands_gives_other_numbers(tmp_path: Path, files: dict[str, bytes], runs: list[RunFile]):
    assert flips(tmp_path, files, runs, 5000) == {"damaged"}


@pytest.mark.parametrize("table", ["runs", "dynamics"])
def test_a_set_is_read_up_to_the_part_with_a_flipped_bit(
    tmp_path: Path, files: dict[str, bytes], runs: list[RunFile], table: str
):
    name = f"{table}/part-00001.parquet"
    data = bytearray(files[name])
    data[len(data) // 2] ^= 16
    found, rejected = read_sources([put_files(tmp_path / "set", {**files, name: bytes(data)})])
    assert [run.id for run in found] == [runs[0].id]
    assert f"{name} is not as it was written" in str(rejected[0].error)
    assert exit_code(judge(found, rejected), strict=True) == 2


def test_a_lost_or_a_foreign_file_is_named_and_no_query_is_asked(tmp_path: Path, files: dict[str, bytes]):
    lost = {name: data for name, data in files.items() if name != "steps/part-00001.parquet"}
    foreign = {**files, "steps/part-00002.parquet": files["steps/part-00001.parquet"]}
    for folder, contents, sentence in (
        (tmp_path / "lost", lost, "steps/part-00001.parquet is missing"),
        (tmp_path / "foreign", foreign, "steps/part-00002.parquet is not in prismatic-set.json"),
    ):
        found, (rejected,) = read_sources([put_files(folder, contents)])
        assert found == []
        assert sentence in str(rejected.error)
        with pytest.raises(NotASet, match=sentence):
            relations_of_sets([folder])


def test_files_of_others_beside_a_set_are_no_damage(tmp_path: Path, files: dict[str, bytes], runs: list[RunFile]):
    others = {"notes.txt": b"x", "plots/part-00000.parquet": b"x", "steps/readme.md": b"x"}
    assert outcome(put_files(tmp_path, {**files, **others}), runs) == "same"


def test_an_interrupted_set_is_written_again_but_not_mixed_with_another(
    tmp_path: Path, files: dict[str, bytes], runs: list[RunFile]
):
    put_files(tmp_path, {name: data for name, data in files.items() if "part-00000" in name})
    assert write_set(runs, tmp_path, by_scale=False) == 2
    assert outcome(tmp_path, runs) == "same"
    (tmp_path / MANIFEST).unlink()
    put_files(tmp_path, {name: data for name, data in files.items() if "part-00001" in name})
    with pytest.raises(NotASet, match=r"there is dynamics/part-00001\.parquet of another set"):
        write_set(runs, tmp_path, by_scale=False)
    assert not (tmp_path / MANIFEST).exists()


# -- The manifest ------------------------------------------------------------------------------------------------------


def edited(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    """Return an edit of a manifest by somebody who does not know of its hash."""

    def edit(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        return json.dumps(content).encode()

    return edit


AS_WRITTEN, NO_JSON = "prismatic-set.json is damaged: it is not as it was written", "it is not the JSON of a manifest"
EDITS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut short": (lambda data: data[:-1], NO_JSON),
    "no UTF-8": (lambda data: b"\xff" + data, NO_JSON),
    "a list": (lambda _: b"[]", NO_JSON),
    "parts that are a number": (lambda _: b'{"format": "prismatic-set/2", "runs": 2, "parts": 1}', NO_JSON),
    "nested": (lambda _: b"[" * 100_000, NO_JSON),
    "another number of runs": (edited(lambda content: content.update(runs=3)), AS_WRITTEN),
    "another format": (edited(lambda content: content.update(format="prismatic-set/3")), AS_WRITTEN),
    "no parts": (edited(lambda content: content.pop("parts")), NO_JSON),
    "no hash of its own": (edited(lambda content: content.pop("sha256")), AS_WRITTEN),
    "no runs": (lambda _: b'{"format": "prismatic-set/2"}', "it gives no number of runs"),
}


@pytest.mark.parametrize(("edit", "sentence"), EDITS.values(), ids=EDITS)
def test_a_damaged_manifest_is_not_called_a_missing_one(
    tmp_path: Path, files: dict[str, bytes], edit: Callable[[bytes], bytes], sentence: str
):
    put_files(tmp_path, {**files, MANIFEST: edit(files[MANIFEST])})
    with pytest.raises(NotASet, match=sentence) as raised:
        list(read_in_process(tmp_path))
    assert "found no" not in str(raised.value)


def test_a_name_in_a_manifest_is_printed_without_control_characters(tmp_path: Path, files: dict[str, bytes]):
    content = {key: value for key, value in json.loads(files[MANIFEST]).items() if key != "sha256"}
    content["parts"]["\x1b[2J../part"] = {"runs": "0"}
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    put_files(tmp_path, {**files, MANIFEST: json.dumps(content).encode()})
    with pytest.raises(NotASet, match=r"part\.parquet is missing") as raised:
        list(read_in_process(tmp_path))
    assert "\x1b" not in str(raised.value)


# -- Sets of earlier versions ------------------------------------------------------------------------------------------


def test_an_old_set_is_read_with_a_note_until_it_is_written_again(
    tmp_path: Path, files: dict[str, bytes], runs: list[RunFile]
):
    found, rejected = read_sources([put_files(tmp_path / "old", of_earlier_version(files))])
    assert not rejected
    assert [run.notes for run in found] == [(*run.notes, NO_HASHES) for run in runs]
    assert exit_code(judge(found), strict=True) == 0  # as for run files without checksums
    write_set(found, tmp_path / "new")
    assert outcome(tmp_path / "new", runs) == "same"


def reordered(table: pa.Table) -> pa.Table:
    """Return the rows of each run and expert in the reverse order."""
    keys = [(name, "ascending") for name in ("run", "expert") if name in table.column_names]
    return table.sort_by([*keys, ("step", "descending")])


def with_steps(values: Callable[[pa.ChunkedArray], object]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index("step"), "step", values(table["step"]))


def without_columns(runs: pa.Table) -> pa.Table:
    return runs.set_column(runs.column_names.index("columns"), "columns", pa.array(['["loss"]'] * len(runs)))


CHANGES: dict[str, tuple[str, Callable[[pa.Table], pa.Table], str]] = {
    "reversed steps": ("steps", reordered, "does not hold growing integers"),
    "reversed dynamics": ("dynamics", reordered, "do not have the same steps"),
    "NULLs": ("steps", with_steps(lambda steps: pa.nulls(len(steps), pa.int64())), "growing integers"),
    "texts": ("steps", with_steps(lambda steps: steps.cast(pa.string())), "growing integers"),
    "fractions": ("steps", with_steps(lambda steps: steps.cast(pa.float64())), "growing integers"),
    "NULLs in dynamics": ("dynamics", with_steps(lambda steps: pa.nulls(len(steps), pa.int64())), "the same steps"),
    "fractions in dynamics": ("dynamics", with_steps(lambda steps: steps.cast(pa.float64())), "the same steps"),
    "a lost row": ("dynamics", lambda table: table.slice(1), "do not have the same steps"),
    "lost rows of all experts": ("steps", lambda table: table.slice(1), "do not have the same steps"),
    "a lost expert": ("dynamics", lambda table: table.slice(600), "no rows of expert 0"),
    "a lost column": ("dynamics", lambda table: table.drop_columns(["top_norm"]), "missing: .*top_norm"),
    "a lost column of steps": ("steps", lambda table: table.drop_columns(["loss"]), "missing: loss"),
    "no list of columns": ("runs", without_columns, "does not name the columns of a run"),
    "a lost fact of a run": ("runs", lambda table: table.drop_columns(["columns"]), "missing: columns"),
}


@pytest.mark.parametrize(("table", "change", "sentence"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("manifest", [of_earlier_version, with_fitting_manifest])
def test_rows_that_do_not_belong_together_are_damage(
    tmp_path: Path, files: dict[str, bytes], manifest: Callable, table: str, change: Callable, sentence: str
):
    name, written = f"{table}/part-00000.parquet", io.BytesIO()
    pq.write_table(change(pq.read_table(io.BytesIO(files[name]))), written)
    put_files(tmp_path, manifest({**files, name: written.getvalue()}))
    with pytest.raises(NotASet, match=f"part part-00000: .*{sentence}"):
        list(read_in_process(tmp_path))


def test_the_process_behind_walls_says_the_same(tmp_path: Path, files: dict[str, bytes]):
    name, written = "steps/part-00001.parquet", io.BytesIO()
    pq.write_table(reordered(pq.read_table(io.BytesIO(files[name]))), written)
    found, (rejected,) = read_sources(
        [put_files(tmp_path / "set", of_earlier_version({**files, name: written.getvalue()}))]
    )
    assert len(found) == 1
    assert "part part-00001: column `step` of table steps does not hold growing integers" in str(rejected.error)


def test_long_runs_fill_a_part_before_their_number_does(
    tmp_path: Path, runs: list[RunFile], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parquet_set, "PART_BYTES", runs[0].wide.nbytes)
    write_set(runs, tmp_path, by_scale=False)
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert outcome(tmp_path, runs) == "same"
