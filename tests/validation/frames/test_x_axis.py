"""Steps, tokens and hours on the horizontal axis."""

import pandas as pd

from tests.support.simulated_runs import simulated_run, write
from validation.analysis.load import load_runs
from validation.files.read_files import read_files
from validation.frames.x_axis import rows_on_axis


def test_hours_and_tokens_stand_in_place_of_the_step(tmp_path):
    (run,) = load_runs(read_files([write(simulated_run(steps=50), tmp_path / "dynamics.db")])[0])
    tokens = type(run)(**{**vars(run), "facts": {"config.batch_size": 8, "config.sequence_length": 96}})
    long = pd.DataFrame({"step": [0, 10], "value": [1.0, 2.0]})
    assert rows_on_axis(long, tokens, "Tokens")["step"].tolist() == [768, 11 * 768]
    assert rows_on_axis(long, run, "Steps") is long
    hours = rows_on_axis(long, run, "Hours")["step"]
    assert hours[0] == 0
    assert 0 <= hours[1] < 1
