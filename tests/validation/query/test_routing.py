"""The evenness of the routing, in SQL and as frames, compared to plain loops over the shares."""

import math
from itertools import pairwise

import numpy as np
import pytest

from prismatic.contract.schema import ROUTING_COLUMNS
from tests.support.logged_runs import execute
from tests.support.routed_runs import write_shares
from tests.support.run_file import rows
from tests.support.source_tree import ROOT
from validation.analysis.load import load_runs
from validation.cli.main import main
from validation.files.parquet_set import write_set
from validation.files.read_files import read_files
from validation.frames.routing_load import is_packed, packed_load, routing_load, windows_of
from validation.query.database import RELATIONS, connect, open_database, relations_of
from validation.query.set_database import relations_of_sets
from validation.query.user_sql import run_query

NAMES = [column.name for column in ROUTING_COLUMNS]
RNG = np.random.default_rng(0)
SHARES = [[RNG.dirichlet(np.ones(4)).tolist() for _ in range(2)] for _ in range(7)]
SHARES[3] = [[1.0, 0.0, 0.0, 0.0], [0.25] * 4]


def evenness(own):
    """Return entropy, violation and unused experts of the shares of one layer."""
    entropy = -sum(share * math.log(share) for share in own if share) / math.log(len(own))
    return entropy, max(own) / (1 / len(own)) - 1, sum(share == 0 for share in own)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_shares(tmp_path_factory.mktemp("routed") / "a.db", SHARES)


@pytest.fixture(scope="module")
def file(path):
    (found,), rejected = read_files([path])
    assert not rejected
    return found


@pytest.fixture(scope="module", params=["runs", pytest.param("set", marks=pytest.mark.long)])
def relations(request, file, tmp_path_factory):
    if request.param == "runs":
        return relations_of([file])
    write_set([file], folder := tmp_path_factory.mktemp("set") / "s")
    return relations_of_sets([folder])


def test_the_evenness_of_each_layer_is_a_relation(relations):
    found = run_query(relations, "SELECT * FROM routing ORDER BY step, layer").table
    assert found.column_names == RELATIONS["routing"]
    for row in found.to_pylist():
        expected = evenness(SHARES[row["step"]][row["layer"]])
        assert (row["entropy"], row["violation"], row["unused"]) == pytest.approx(expected)
    assert len(found) == 14


def test_a_set_of_an_earlier_version_has_no_routing_and_answers_all_the_same():
    with open_database(relations_of_sets([ROOT / "examples" / "study"])) as con:
        assert con.execute("SELECT count(*) FROM routing").fetchall() == [(0,)]
        assert con.execute("SELECT count(*) > 0, count(token_share) FROM layers").fetchall() == [(True, 0)]


def test_the_numbers_that_a_callback_logged_of_all_layers_are_read(relations, path, file):
    logged = [[row[name] for name in NAMES] for row in rows(path)]
    assert file.ignored == ()
    found = run_query(relations, f"SELECT {', '.join(NAMES)} FROM steps ORDER BY step").table.to_pylist()
    assert [list(row.values()) for row in found] == logged
    (run,) = load_runs([file])
    assert [[run.step_columns[name][t] for name in NAMES] for t in range(7)] == logged
    for step, (entropy, violation, unused) in enumerate(logged):
        layers = [evenness(own) for own in SHARES[step]]
        assert entropy == pytest.approx(np.mean([own[0] for own in layers]))
        assert violation == pytest.approx(max(own[1] for own in layers))
        assert unused == sum(own[2] for own in layers)


def test_a_changed_number_of_the_routing_is_damage(path, tmp_path):
    copy = tmp_path / "b.db"
    copy.write_bytes(path.read_bytes())
    execute(copy, "BEGIN", "UPDATE dynamics SET unused_experts = 0 WHERE step = 3", "COMMIT")
    (found,), _ = read_files([copy])
    assert found.damage == ("not as recorded when the file was closed: dynamics.unused_experts",)


def test_a_run_without_shares_has_no_rows_of_routing(tmp_path):
    files, _ = read_files([write_shares(tmp_path / "a.db", SHARES, weights=True)])
    con = connect(files)
    assert con.sql("SELECT count(*) FROM routing").fetchall() == [(0,)]
    assert con.sql("SELECT routing_entropy FROM steps").fetchall() == [(None,)] * 7


@pytest.mark.parametrize("layer", [0, 1, None])
@pytest.mark.parametrize("windows", [3, 60])
def test_loads_are_means_over_windows_of_logged_steps(file, monkeypatch, layer, windows):
    monkeypatch.setattr("validation.frames.routing_load.WINDOWS", windows)
    found = routing_load(connect([file]), file, layer)
    edges = [0, 3, 5, 7] if windows == 3 else [*range(8)]
    layers = [0, 1] if layer is None else [layer]
    for first, end in pairwise(edges):
        steps = range(first, end)
        (even,) = found.evenness[found.evenness["step"] == first].to_dict("records")
        assert even["last_step"] == end - 1
        own = [evenness(SHARES[step][number]) for step in steps for number in layers]
        assert even["entropy"] == pytest.approx(np.mean([each[0] for each in own]))
        assert even["violation"] == pytest.approx(np.mean([each[1] for each in own]))
        assert even["unused"] == pytest.approx(sum(each[2] for each in own) / len(steps))
        for expert in range(4):
            shares = found.shares
            (row,) = shares[(shares["step"] == first) & (shares["expert"] == expert)].to_dict("records")
            expected = np.mean([4 * SHARES[step][number][expert] for step in steps for number in layers])
            assert row["load"] == pytest.approx(expected)
    assert found.of_tokens


def test_loads_are_shares_of_weight_where_tokens_are_not_counted(tmp_path):
    (file,), _ = read_files([write_shares(tmp_path / "a.db", SHARES, weights=True)])
    found = routing_load(connect([file]), file, 1)
    assert not found.of_tokens
    assert found.evenness.empty
    assert found.shares.query("step == 3")["load"].tolist() == pytest.approx([1.0] * 4)


def shares_of_many(experts=40, layers=3, steps=130):
    """Return shares that are drawn at random, of which some are zero, and one layer counts none at the first steps."""
    rng = np.random.default_rng(1)
    shares_TLE = rng.dirichlet(np.full(experts, 0.3), (steps, layers))
    shares_TLE[:, :, 7] = 0.0
    found = shares_TLE.tolist()
    for step in range(9):
        found[step][1] = [None] * experts
    return found


@pytest.mark.parametrize("weights", [False, True])
def test_the_load_of_packed_rows_is_that_of_their_rows_in_sql(tmp_path, weights):
    (file,), _ = read_files([write_shares(tmp_path / "packed.db", shares_of_many(), weights=weights)])
    assert is_packed(file)
    con = connect([file])
    for layer in (None, 0, 1):
        found, expected = packed_load(file, layer), routing_load(con, file, layer)
        assert found.of_tokens == expected.of_tokens == (not weights)
        for name in ("shares", "evenness"):
            one, other = getattr(found, name), getattr(expected, name)
            assert [*one] == [*other]
            assert one.to_numpy(dtype=float) == pytest.approx(other.to_numpy(dtype=float), rel=1e-6)
    assert packed_load(file, 5) is None


def test_windows_are_longer_where_there_are_many_experts():
    assert [windows_of(experts) for experts in (0, 8, 32, 64, 128, 256)] == [60, 60, 60, 30, 15, 15]


@pytest.mark.long
def test_a_relation_of_the_routing_is_exported(path, tmp_path):
    assert main(["export", str(path), "--relation", "routing", "-o", str(tmp_path / "a.csv")]) == 0
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert (lines[0].replace('"', ""), len(lines)) == ("run,step,layer,entropy,violation,unused", 15)
