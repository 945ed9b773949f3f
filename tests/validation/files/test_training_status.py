"""Runs in training are recognized by their exit state, without reading rows."""

import os

from tests.support.machine_runs import a_run, running
from tests.support.machine_runs import folder as folder
from validation.files.training_status import training_status


def test_only_the_runs_in_training_are_marked(folder):
    logger, live_one = running(folder, "aaaaaaaaa")
    try:
        ended, crashed = a_run(folder, "bbbbbbbbb", exit_state="finished"), a_run(folder, "ccccccccc")
        (folder / "d").mkdir()
        junk = folder / "d" / "dynamics.db"
        junk.write_bytes(b"SQLite format 3\0 and no more")
        seen = {file.path: file.training for file in training_status([live_one, ended, crashed, junk, folder / "none"])}
        assert seen == {live_one: True, ended: False, crashed: False, junk: False}
        os.utime(live_one, (1, 1))
        assert not training_status([live_one])[0].training
    finally:
        logger.close()
