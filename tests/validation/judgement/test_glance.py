"""The verdict at a glance: one next step that does what it says, and a premise that agrees with the verdict."""

import shlex

import pytest

from prismatic.sweep.plan import plan
from tests.support.report_readers import EXAMPLES, ROOT, judged
from tests.support.simulated_runs import study, write
from validation.files.sources import read_sources
from validation.judgement.glance import AGAIN, glance_of
from validation.judgement.judge import judge
from validation.text import sentence
from validation.verdict.words.statuses import ICONS


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_has_all_that_a_first_page_needs(example):
    glance = glance_of(judged(example))
    assert glance.shown.kind in ICONS
    assert len(glance.headline.split()) <= 14
    assert glance.sentence.endswith(".")
    assert [row.claim.name for row in glance.rows] == ["awakening", "divergence", "sustainment"]
    assert all(len(row.reason.split()) <= 15 for row in glance.rows)
    assert glance.step is not None


@pytest.mark.parametrize("name", ["as-is", "per-example", "positive-control"])
def test_the_command_plans_the_runs_that_its_cost_counts(name, tmp_path):
    step = glance_of(judged(ROOT / "examples" / f"{name}.db")).step
    program, config, *words = shlex.split(step.command)[1:2] + shlex.split(step.command)[3:]
    assert program == "sweep"
    options = words[words.index("--set") + 1 : words.index("--grid")] if "--set" in words else []
    jobs = plan(ROOT / config, words[words.index("--grid") + 1 :], overrides=options, runs=tmp_path).jobs
    assert step.cost.startswith(f"{len(jobs)} runs, about ")


def test_a_reason_is_told_once():
    reasons = [row.reason for row in glance_of(judged(ROOT / "examples" / "as-is.db")).rows]
    assert reasons[1:] == [AGAIN, AGAIN] != reasons[:2]


def test_planted_effects_of_several_experiments_are_found_and_never_supported(tmp_path):
    files = [
        write(run, tmp_path / f"{gain}-{run.id}.db", run_hash=f"{gain:.0f}{n}" * 4, **{"config.positive_control": gain})
        for gain in (2.0, 3.0)
        for n, run in enumerate(study(6, perturbed=3, control=3, awakening=gain))
    ]
    glance = glance_of(judge(*read_sources(files)))
    assert glance.shown.word == "self-test passed"
    assert [shown.word for _, _, shown in glance.rows[0].groups] == ["found", "found"]
    assert not {shown.kind for row in glance.rows for _, _, shown in row.groups} & {"supported"}


def test_a_failed_premise_agrees_with_each_verdict(tmp_path):
    def premise(**effects):
        runs = study(6, perturbed=3, control=3, sd=0.02, **effects)
        files = [write(run, tmp_path / f"{run.id}.db", run_hash=f"{n:x}" * 9) for n, run in enumerate(runs)]
        return glance_of(judge(*read_sources(files))).premise

    assert "there was little to awaken, which agrees with the verdict" in premise()
    assert "not that sleeping weights woke up" in premise(awakening=1.5)


def test_data_that_cannot_be_judged_is_told_by_what_was_seen_and_its_cause():
    judgement = judged(ROOT / "examples" / "zero-norms.db")
    glance, finding = glance_of(judgement), judgement.findings[0]
    assert glance.headline == f"Nothing can be concluded: {finding.symptom}"
    assert glance.sentence == f"Seen: {finding.evidence}. Cause: {finding.cause}."
    assert glance.step.text == sentence(finding.fix)
    assert glance.documented == ""


def test_copies_among_runs_are_told_and_no_fault_of_another_file(tmp_path):
    run = study(1, perturbed=3, control=3)[0]
    files = [write(run, tmp_path / f"{n}.db", run_hash=f"{n}" * 9, **{"config.seed": 0}) for n in range(2)]
    (tmp_path / "bad.db").write_bytes(b"no database")
    glance = glance_of(judge(*read_sources([*files, tmp_path / "bad.db"])))
    assert glance.headline == "These runs are not independent repetitions"
    assert "seed 0 is there twice" in glance.sentence.lower()
    assert "Seen:" not in glance.sentence


def test_several_experiments_have_the_range_of_their_estimates():
    said = glance_of(judged(ROOT / "examples" / "study")).sentence
    assert "the gradient gain of the bottom tier is 1.01x to 1.02x, and 1.10x is ruled out in each" in said
    assert "with 6 sham runs as their controls" in said


def test_files_that_cannot_be_read_have_a_next_step(tmp_path):
    (tmp_path / "bad.db").write_bytes(b"no database")
    glance = glance_of(judge(*read_sources([tmp_path / "bad.db"])))
    assert glance.headline == "No run could be judged"
    assert glance.step is not None
    assert glance.rows == ()


def test_the_documented_reading_says_why_it_differs(tmp_path):
    differs = "The verdict above adds control and interval"
    assert differs in glance_of(judged(ROOT / "examples" / "as-is.db")).documented
    runs = [
        write(run, tmp_path / f"{run.seed}.db", run_hash=f"{run.seed}" * 9) for run in study(6, perturbed=3, control=3)
    ]
    glance = glance_of(judge(*read_sources(runs)))
    same = all(f"{row.claim.name} {row.claim.status}" in glance.documented for row in glance.rows)
    assert (differs in glance.documented) is not same
