"""The outcome: held-out losses against those of the twins, paired by seed, beside the claims and never in them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from prismatic.contract.thresholds import Thresholds
from tests.support.simulated_runs import study
from validation.analysis.intervals import Interval
from validation.analysis.run import Run
from validation.verdict.decide import judge_runs
from validation.verdict.groups import Group
from validation.verdict.outcome import in_words

SHORT = {"steps": 60, "control": 1}


def with_losses(runs: list[Run], losses: list[object]) -> list[Run]:
    return [replace(run, facts={**run.facts, "held_out_loss": loss}) for run, loss in zip(runs, losses, strict=True)]


def drawn(seeds: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """Return losses of runs and of their twins, which a seed has most of its luck in common with."""
    rng = np.random.default_rng(seeds)
    luck = rng.normal(2.3, 0.2, seeds)
    return luck + effect + rng.normal(0, 0.01, seeds), luck + rng.normal(0, 0.01, seeds)


def treated(runs: list[Run], invalid: dict[str, str] | None = None, **changed: float) -> Group:
    return judge_runs(runs, invalid or {}, Thresholds().changed(changed)).deciding[0]


@pytest.mark.parametrize(("seeds", "effect", "alpha"), [(2, 0.0, 0.05), (6, 0.02, 0.05), (9, -0.02, 0.01)])
def test_it_is_the_paired_t_interval_of_scipy(seeds, effect, alpha):
    losses, of_twins = drawn(seeds, effect)
    found = treated(with_losses(study(seeds, twins=True, **SHORT), [*losses, *of_twins]), alpha=alpha).outcome
    expected = stats.ttest_rel(losses, of_twins).confidence_interval(1 - alpha)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert [pair.seed for pair in found.pairs] == [*range(seeds)]
    assert [pair.difference for pair in found.pairs] == pytest.approx(losses - of_twins)
    assert {pair.twin for pair in found.pairs} == {f"sham {seed}" for seed in range(seeds)}


def test_runs_are_paired_by_their_seed_whatever_their_order():
    losses, of_twins = drawn(6, 0.02)
    runs = with_losses(study(6, twins=True, **SHORT), [*losses, *of_twins])
    assert treated(runs[::-1]).outcome == treated(runs).outcome


def test_the_twin_of_an_upcycled_run_is_the_copy_of_its_seed():
    """Runs that began as copies, and runs of the same seeds whose copies were partly drawn again."""
    losses, of_twins = drawn(3, -0.02)
    runs = []
    for method, values in (("drop", losses), ("copy", of_twins)):
        made = study(3, config={"upcycle_method": method}, **SHORT)
        facts = [{key: value for key, value in run.facts.items() if "scale" not in key} for run in made]
        scales = {1: 0.0} if method == "copy" else {}
        runs += [
            replace(run, id=f"{method} {run.id}", facts={**known, "held_out_loss": loss}, scales=scales)
            for run, known, loss in zip(made, facts, values, strict=True)
        ]
    found = treated(runs).outcome
    assert [(pair.run, pair.twin) for pair in found.pairs] == [(f"drop {n}", f"copy {n}") for n in range(3)]
    assert found.interval.mid == pytest.approx((losses - of_twins).mean())


def test_the_words_say_on_which_side_of_the_twins_the_runs_end():
    assert in_words(Interval(0.0031, -0.0101, 0.0163, 6)) == "0.003 nats above their twins [-0.010, +0.016]"
    assert in_words(Interval(-0.0121, -0.022, -0.002, 6)) == "0.012 nats below their twins [-0.022, -0.002]"
    assert in_words(Interval(0.0, -1e-9, 1e-9, 6)) == "0.000 nats above their twins [+0.000, +0.000]"


def test_it_stands_beside_the_claims_in_one_sentence():
    group = treated(with_losses(study(3, twins=True, **SHORT), [2.0, 2.1, 2.2, 2.1, 2.2, 2.3]))
    sentence = "in held-out loss the perturbed runs end 0.100 nats below their twins [-0.100, -0.100], over 3 seeds"
    assert group.outcome.because == sentence
    (note,) = [note for note in group.notes if note.name == "outcome"]
    assert (note.status, note.because, note.estimate) == ("measured", sentence, pytest.approx(-0.1))


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, "unknown", 1e16])
def test_a_run_without_a_finite_loss_is_left_out_and_counted(missing):
    losses = [2.0, 2.1, missing, 2.1, 2.2, 2.3]
    found = treated(with_losses(study(3, twins=True, **SHORT), losses)).outcome
    assert [pair.seed for pair in found.pairs] == [0, 1]
    assert found.because.endswith("over 2 of 3 seeds")


def test_a_run_whose_data_carries_no_verdict_is_left_out():
    runs = with_losses(study(3, twins=True, **SHORT), [2.0, 2.1, 9.0, 2.1, 2.2, 2.3])
    assert [pair.seed for pair in treated(runs, {"2": "damaged"}).outcome.pairs] == [0, 1]
    assert [pair.seed for pair in treated(runs, {"sham 1": "damaged"}).outcome.pairs] == [0, 2]


def test_nothing_is_said_of_one_pair_of_repeated_seeds_or_without_twins():
    one = with_losses(study(3, twins=True, **SHORT), [2.0, None, None, 2.1, 2.2, 2.3])
    assert treated(one).outcome is None
    runs = with_losses(study(3, twins=True, **SHORT), [2.0, 2.1, 2.2, 2.1, 2.2, 2.3])
    again = replace(runs[0], id="again")
    assert treated([*runs, again]).outcome is None
    assert treated(runs[:3]).outcome is None
    assert treated(runs[3:]).outcome is None  # sham runs are nobody's twins


def test_no_claim_and_no_status_depends_on_it():
    runs = study(6, twins=True, awakening=1.5, **SHORT)
    without, far = judge_runs(runs, {}), judge_runs(with_losses(runs, [9.0] * 6 + [2.0 + n / 9 for n in range(6)]), {})
    assert far.outcomes
    assert not without.outcomes
    assert far.controlled == without.controlled
    assert [group.claims for group in far.groups] == [group.claims for group in without.groups]
