"""The catalog of runs in the server's folders."""

import os

from tests.support.machine_runs import a_run
from tests.support.machine_runs import folder as folder
from ui.session import catalog


def test_runs_of_several_folders_are_told_apart_where_they_have_one_name(folder, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    first, second = a_run(folder, "aaaaaaaaa"), a_run(other, "aaaaaaaaa")
    monkeypatch.setenv("PRISMATIC_RUNS", f"{folder}{os.pathsep}{other}")
    keys = {entry.path: key for key, entry in catalog.by_key().items()}
    assert len({keys[first], keys[second]}) == 2
