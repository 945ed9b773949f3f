"""The Verdict page: its closed parts are made when they are opened, and claims are over seeds or about one run."""

import pytest

from tests.support.app_pages import EXAMPLES, opened, texts
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import study, write
from validation.files.sources import read_sources
from validation.judgement.judge import judge

PAGE = "pages/2_Verdict.py"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write six seeds with an effect of the bottom tier, and their sham runs."""
    folder = tmp_path_factory.mktemp("study")
    return [
        write(run, folder / f"{run.id}.db", run_hash=f"{place:x}" * 9)
        for place, run in enumerate(study(6, probed_run, twins=True, bottom=0.5, steps=120))
    ]


@pytest.fixture(scope="module")
def judged(files):
    return judge(*read_sources(files))


def test_parts_of_the_verdict_are_made_when_they_are_opened():
    at = opened(PAGE, (EXAMPLES / "as-is.db", "as-is"))
    assert not at.get("dataframe")
    for part, columns in {
        "see-claims": {"reading", "claim", "because"},
        "see-facts": {"fact", "value"},
        "see-thresholds": {"threshold", "used", "registered", "default"},
    }.items():
        at.session_state[part] = True
        at.run()
        assert not at.exception
        assert any(columns <= set(table.value) for table in at.get("dataframe"))


def test_claims_are_over_the_seeds_of_the_group_or_about_the_run_alone(files, judged):
    at = opened(PAGE, *((file, file.name) for file in files))
    assert not at.exception
    over, alone = judged.verdict.groups[0].claims, judged.verdict.controlled.of(judged.runs[0].id)
    assert "over 6 seeds" in texts(at)
    assert len(at.get("vega_lite_chart")) == sum(len(claim.components) for claim in over)
    at.get("button_group")[0].set_value("This run alone").run()
    assert not at.exception
    assert "over 6 seeds" not in texts(at).partition("What to do next")[0]
    assert len(at.get("vega_lite_chart")) == sum(len(claim.components) for claim in alone)


def test_claims_name_each_of_their_effects(files, judged):
    at = opened(PAGE, *((file, file.name) for file in files))
    at.session_state["see-claims"] = True
    at.run()
    table = next(table.value for table in at.dataframe if "because" in table.value)
    divergence = next(claim for claim in judged.verdict.groups[0].claims if claim.name == "divergence")
    assert {part.name for part in divergence.components} == {"size", "direction"} <= set(table["claim"])
    written = table[table["reading"] == "as written"]
    assert set(written["expert"]) == {"1", "2", "3", "all"}
