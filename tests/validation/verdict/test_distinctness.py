"""The claim that experts are distinct: its decision, its numbers and words, and runs of peers, which have no other."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.support.peer_runs import as_peers, peer_run, peer_study
from tests.support.probed_runs import probed_run
from tests.support.simulated_runs import simulated_run, study
from validation.analysis.run import Run
from validation.verdict.claims import (
    CLAIMS,
    CONFOUNDED,
    DISTINCT,
    INCONCLUSIVE,
    INVALID,
    REFUTED,
    SUPPORTED,
    Reason,
)
from validation.verdict.decide import Verdict, judge_runs
from validation.verdict.groups import PEERS, TREATED
from validation.verdict.words.distinctness import HEADLINES_OF_DISTINCT
from validation.verdict.words.reasons import MOST_WORDS
from validation.verdict.words.statuses import shown_claim

ALIKE, APART = {"apart": 0.0, "sd": 0.005}, {"apart": 0.3}


def until(run: Run, step: int) -> Run:
    """Return the run as it was at a step, of the same plan."""
    cut = run.between(0, step - 1)
    isolated = run.isolated
    rows = int((isolated.steps < step).sum())

    def first(columns):
        return {name: column[:rows] for name, column in columns.items()}

    layers = [{e: replace(x, columns=first(x.columns)) for e, x in layer.items()} for layer in isolated.layers]
    pairs = [{pair: first(columns) for pair, columns in layer.items()} for layer in isolated.pairs]
    isolated = replace(isolated, steps=isolated.steps[:rows], layers=layers, pairs=pairs)
    return replace(cut, isolated=isolated)


CASES = {
    Reason.ABOVE_MARGIN: (SUPPORTED, lambda: peer_study(6, **APART)),
    Reason.INSIDE_MARGIN: (REFUTED, lambda: peer_study(6, **ALIKE)),
    Reason.BOTH_SIDES_OF_MARGIN: (INCONCLUSIVE, lambda: peer_study(6, apart=0.05, experts=3, sd=0.05)),
    Reason.TOO_FEW_SEEDS: (INCONCLUSIVE, lambda: peer_study(5, **APART)),
    Reason.TOO_FEW_EXPERTS: (INCONCLUSIVE, lambda: [peer_run(experts=2, **APART)]),
    Reason.PAIRS_NOT_COMPARED: (CONFOUNDED, lambda: peer_study(6, pairs=False)),
    Reason.DIRECTION_NOT_MEASURED: (CONFOUNDED, lambda: peer_study(6, reliability=0.05)),
    Reason.NOT_FINISHED: (INCONCLUSIVE, lambda: [until(run, 400) for run in peer_study(6, **APART)]),
    Reason.TOO_FEW_PLANNED_ROWS: (INCONCLUSIVE, lambda: peer_study(6, steps=20, **APART)),
    Reason.NO_REPLICAS: (INVALID, lambda: [replace(run, id=f"{n}") for n, run in enumerate([peer_run()] * 6)]),
}


@pytest.mark.parametrize("reason", CASES)
def test_the_first_line_that_applies_decides(reason):
    status, runs = CASES[reason]
    claim = judge_runs(runs(), {}).distinct.whole(None)[DISTINCT]
    assert (claim.status, claim.reason) == (status, reason)


@pytest.mark.parametrize("reason", CASES)
def test_every_reason_is_told_in_a_headline_and_a_sentence(reason):
    claim = judge_runs(CASES[reason][1](), {}).distinct.whole(None)[DISTINCT]
    assert 2 < len(claim.headline.split()) <= MOST_WORDS
    assert len(claim.because.split()) >= 4
    assert not re.search(r"nan|inf\b|None|  |[.;,]$", f"{claim.because}|{claim.headline}".replace("|", " "))


def test_mostly_noise_is_named_as_what_confounds():
    claim = judge_runs(CASES[Reason.DIRECTION_NOT_MEASURED][1](), {}).distinct.whole(None)[DISTINCT]
    assert shown_claim(claim).word == "confounded by noise"


def test_every_headline_of_its_own_has_a_case():
    assert {*HEADLINES_OF_DISTINCT} <= {*CASES}


def test_the_interval_over_seeds_is_students_of_the_mean_over_pairs_in_the_last_third():
    runs = peer_study(7, experts=4, apart=0.2)
    claim = judge_runs(runs, {}).distinct.whole(None)[DISTINCT]
    means = []
    for run in runs:
        late = run.isolated.steps >= 60 + 540 * 4 / 6  # after a warm-up of 10 %, the last two of six parts of the time
        early = (run.isolated.steps >= 60 + 540 * 4 / 6) & (run.isolated.steps < 60 + 540 * 5 / 6)
        thirds = []
        for rows in (early, late & ~early):
            cosines = []
            for pairs, layer in zip(run.isolated.pairs, run.isolated.layers, strict=True):
                own = {e: expert["half_product"][rows].mean() for e, expert in layer.items()}
                products = {pair: columns["half_product"][rows].mean() for pair, columns in pairs.items()}
                cosines.append([x / np.sqrt(own[e] * own[f]) for (e, f), x in products.items()])
            thirds.append(1 - np.mean(cosines))
        means.append(np.mean(thirds))
    interval = stats.t.interval(0.95, len(means) - 1, np.mean(means), stats.sem(means))
    assert (claim.estimate, claim.low, claim.high) == pytest.approx((np.mean(means), *interval), rel=1e-6)
    assert (claim.units, claim.replicate, claim.source, claim.threshold) == (7, "seed", "isolated", 0.05)


def test_the_seeds_that_would_decide_are_told():
    claim = judge_runs(CASES[Reason.BOTH_SIDES_OF_MARGIN][1](), {}).distinct.whole(None)[DISTINCT]
    assert claim.seeds_needed is None or claim.seeds_needed > 6
    wide = judge_runs(peer_study(6, apart=0.065, experts=3, sd=0.04), {}).distinct.whole(None)[DISTINCT]
    assert wide.status == INCONCLUSIVE
    assert wide.seeds_needed > 6


def test_a_result_that_hangs_on_a_lost_run_is_none():
    runs = peer_study(8, **APART)
    lost = judge_runs(runs, {"peers7": "damaged"}).distinct.whole(None)[DISTINCT]
    assert (lost.status, lost.units) == (SUPPORTED, 7)
    near = [peer_run(seed=seed, noise_seed=seed, apart=0.0445 + 0.004 * seed, sd=0.001) for seed in range(7)]
    assert judge_runs(near, {}).status == SUPPORTED
    hidden = judge_runs([*near, peer_run(seed=8, noise_seed=8)], {"peers8": "damaged"}).distinct.whole(None)[DISTINCT]
    assert (hidden.status, hidden.reason) == (INCONCLUSIVE, Reason.DEPENDS_ON_INVALID_RUNS)
    assert judge_runs(runs, {"peers0": "damaged", "peers1": "damaged"}).status == INVALID


def test_peers_are_judged_by_this_claim_alone():
    verdict = judge_runs(peer_study(6, **APART), {})
    assert (verdict.claim, verdict.status) == (DISTINCT, SUPPORTED)
    assert [*verdict.rows] == [DISTINCT] == [*verdict.judged("peers0")]
    assert not verdict.premises
    assert not verdict.doses
    (group,) = verdict.groups
    assert (group.role, group.premise, group.check, group.status) == (PEERS, None, None, SUPPORTED)
    claims = [*verdict.controlled.claims, *verdict.as_written.claims, *group.claims]
    assert {claim.name for claim in claims} == {*CLAIMS}
    assert {(claim.status, claim.reason) for claim in claims} == {(INCONCLUSIVE, Reason.NO_PERTURBATION)}


def test_one_peer_alone_is_read_and_undecided():
    lone = as_peers(simulated_run(perturbed=0, steps=120))
    assert lone.peers
    assert judge_runs([lone], {}).status == CONFOUNDED


def test_seeds_of_one_training_are_one_experiment_and_other_options_another():
    verdict = judge_runs([*peer_study(3), replace(peer_run(seed=9, facts={"option.learning_rate": 1.0}))], {})
    assert [len(group.runs) for group in verdict.groups] == [3, 1]


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_that_was_asked_for_is_the_headline(name):
    runs = study(6, probed_run, size=0.5)
    verdict = judge_runs(runs, {}, claim=name)
    claim = judge_runs(runs, {}).controlled.whole(None)[name]
    assert (verdict.claim, verdict.status, verdict.reading.because) == (name, claim.status, claim.because)
    assert verdict.headline == claim.headline
    assert [*verdict.rows] == [*CLAIMS]


def test_without_a_question_the_three_claims_are_the_headline():
    verdict = judge_runs(study(6, probed_run), {})
    assert (verdict.claim, verdict.reading) == (None, verdict.controlled)
    assert [*verdict.headlines] == [*CLAIMS] == [*verdict.rows]


def test_distinct_can_be_asked_of_perturbed_experts_too():
    verdict = judge_runs(study(6, probed_run), {}, claim=DISTINCT)
    assert (verdict.status, verdict.reading.headline) == (CONFOUNDED, HEADLINES_OF_DISTINCT[Reason.PAIRS_NOT_COMPARED])
    assert [*verdict.rows] == [DISTINCT, *CLAIMS]


def test_peers_beside_treated_runs_leave_the_headline_to_these():
    verdict = judge_runs([*study(6, probed_run), *peer_study(6, **APART)], {})
    assert verdict.claim is None
    assert [group.role for group in verdict.deciding] == [TREATED]
    alone = judge_runs(study(6, probed_run), {})
    assert verdict.status == alone.status
    both = judge_runs([*study(6, probed_run), *peer_study(6, **APART)], {}, claim=DISTINCT)
    assert [group.role for group in both.deciding] == [TREATED, PEERS]
    assert both.headline == "Difference between experts in 1 of 2 experiments"


def test_a_file_without_contents_beside_peers_leaves_the_headline_to_them():
    empty = replace(peer_run(), id="empty", experts={}, layers=(), isolated=None, facts={})
    verdict = judge_runs([*peer_study(6, **APART), empty], {"empty": "nothing is left of it"})
    assert verdict.claim == DISTINCT
    assert [group.role for group in verdict.groups] == [PEERS, PEERS]
    assert verdict.distinct.whole("peers0")[DISTINCT].status == SUPPORTED


def test_a_claim_about_a_perturbation_of_peers_is_not_made():
    verdict: Verdict = judge_runs(peer_study(6), {}, claim="awakening")
    assert (verdict.status, verdict.headline) == (INCONCLUSIVE, "No expert of these runs is named perturbed")
    assert [*verdict.rows] == [DISTINCT, "awakening"]
