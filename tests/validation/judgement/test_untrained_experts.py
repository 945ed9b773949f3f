"""Peers that never received a gradient: they are no evidence about the others, and every reader learns it first."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from prismatic import DynamicsLoggerCallback
from prismatic.train.corpus import Corpus
from tests.support.mixtures import MIXTURES
from tests.support.peer_runs import peer_run, peer_study
from validation.analysis.run import Expert, Run
from validation.cli.main import main
from validation.diagnostics import ERROR, WARNING, diagnose
from validation.files.read_files import read_files
from validation.judgement.judge import judge
from validation.verdict.claims import DISTINCT, INVALID, REFUTED, SUPPORTED
from validation.verdict.decide import judge_runs
from validation.verdict.words.reasons import MOST_WORDS

NORMS = ("top_norm", "bottom_norm", "middle_norm", "norm")
STEPS, EVERY = 72, 2


def silenced(run: Run, experts, layers=None) -> Run:
    """Return the run in which these experts never received a merged gradient, in all layers or in some."""

    def zero(place):
        nothing = dict.fromkeys(NORMS, np.zeros(len(run.steps)))
        return {e: Expert(e, x.role, {**x.columns, **nothing}) if e in experts else x for e, x in place.items()}

    own = [zero(layer) if layers is None or at in layers else layer for at, layer in enumerate(run.layers)]
    return replace(run, layers=own, experts=zero(run.experts) if layers is None else run.experts)


def without(run: Run, experts) -> Run:
    """Return the run as if it had no such experts."""
    isolated = run.isolated
    pairs = [{p: x for p, x in layer.items() if not {*p} & experts} for layer in isolated.pairs]

    def left(place):
        return {e: x for e, x in place.items() if e not in experts}

    isolated = replace(isolated, experts=left(isolated.experts), layers=[*map(left, isolated.layers)], pairs=pairs)
    return replace(run, experts=left(run.experts), layers=[*map(left, run.layers)], isolated=isolated)


def claim_of(runs):
    return judge_runs(runs, {}).distinct.whole(None)[DISTINCT]


def numbers(claim):
    return claim.status, claim.reason, claim.estimate, claim.low, claim.high, claim.units


@pytest.mark.parametrize("seeds", [1, 6])
@pytest.mark.parametrize("apart", [0.3, 0.0])
def test_the_others_are_judged_as_if_they_were_alone(seeds, apart):
    runs = peer_study(seeds, apart=apart, sd=0.005)
    found = claim_of([silenced(run, {2, 5, 7}) for run in runs])
    assert numbers(found) == pytest.approx(numbers(claim_of([without(run, {2, 5, 7}) for run in runs])))
    assert found.status == (SUPPORTED if apart else REFUTED)
    assert found.headline == f"3 of 8 experts never trained; the others are {'distinct' if apart else 'alike'}"
    assert "without the 3 of 8 experts that never received a gradient" in found.because


def test_random_starts_that_no_training_touched_support_nothing():
    """Only the untrained ones are apart: with them the mean is above the margin, without them below."""
    runs = []
    for run in peer_study(6, apart=0.001, sd=0.001):
        far = [
            {p: {**x, "half_product": 0.0 * x["half_product"]} if {*p} & {6, 7} else x for p, x in layer.items()}
            for layer in run.isolated.pairs
        ]
        runs.append(replace(run, isolated=replace(run.isolated, pairs=far)))
    assert claim_of(runs).status == SUPPORTED
    assert claim_of([silenced(run, {6, 7}) for run in runs]).status == REFUTED


def test_an_expert_that_was_trained_in_some_layers_counts_in_these():
    run = peer_run(layers=3)
    found = claim_of([silenced(run, {1, 2}, layers={0})])
    assert found.headline == "2 of 24 experts in 3 layers never trained; the others are distinct"
    kept = [*run.isolated.pairs]
    alone = replace(run, isolated=replace(run.isolated, pairs=kept[1:], layers=run.isolated.layers[1:]))
    alone = replace(alone, layers=run.layers[1:])
    lost, other = (claim_of([each]).estimate for each in (run, alone))
    assert min(lost, other) - 0.02 < found.estimate < max(lost, other) + 0.02
    assert found.units == 8


def test_seeds_that_lost_different_experts_are_each_judged_by_their_own():
    runs = [silenced(run, {seed % 4}) for seed, run in enumerate(peer_study(6))]
    found = claim_of(runs)
    assert (found.status, found.units) == (SUPPORTED, 6)
    assert found.headline.startswith("1 of 8 experts never trained")
    assert claim_of([silenced(runs[0], {0, 1}), *runs[1:]]).headline.startswith("Up to 2 of 8 experts never trained")


@pytest.mark.parametrize("left", [0, 1])
def test_without_two_trained_experts_nothing_can_be_said(left):
    runs = [silenced(run, {*range(left, 8)}) for run in peer_study(6)]
    (finding,) = [each for each in diagnose(runs[0]) if each.id == "zero_norms"]
    assert finding.severity == ERROR
    assert finding.symptom == ("7 of 8 experts never received a gradient" if left else "all gradient norms are zero")
    lost = {run.id: finding.symptom for run in runs}
    assert judge_runs(runs, lost).status == INVALID


def test_some_untrained_experts_are_one_warning_that_names_them():
    (finding,) = [each for each in diagnose(silenced(peer_run(), {2, 5})) if each.id == "zero_norms"]
    assert (finding.severity, finding.symptom) == (WARNING, "2 of 8 experts never received a gradient")
    assert "experts 2, 5 are 0 in all" in finding.evidence


def test_headlines_stay_short():
    worst = silenced(peer_run(layers=2, experts=12), {1, 2}, layers={0})
    for runs in ([worst], [silenced(run, {0, 1, 2, 3, 4, 5}) for run in peer_study(3)]):
        headline = claim_of(runs).headline
        assert "never trained" in headline
        assert len(headline.split()) <= MOST_WORDS


def trained(path, seed: int, chosen: tuple[int, ...]):
    """Train a tiny Mixtral whose router always chooses the same experts, and return the path of its run."""
    model = MIXTURES["Mixtral"].build(seed)

    def always(_, __, output):
        index = torch.tensor(chosen).expand(len(output[0]), -1)
        return output[0], torch.full(index.shape, 1 / len(chosen)), index

    for module in model.modules():
        if type(module).__name__.endswith("TopKRouter"):
            module.register_forward_hook(always)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    callback = DynamicsLoggerCallback(path, log_freq=EVERY, probe_freq=EVERY)

    corpus = Corpus.load()

    def batch_of(step, rows):
        return corpus.batch(step, batch_size=rows, length=24, seed=seed) % 60 + 1

    def loss_of(batch):
        return model(input_ids=batch, labels=batch).loss

    callback.attach(model, optimizer, probe=lambda: (loss_of, batch_of(STEPS, 64)), seed=seed, planned_steps=STEPS)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(batch_of(step, 16)).backward()
        optimizer.step()
    callback.detach()
    return path


@pytest.mark.long
def test_a_real_mixture_whose_router_chooses_two_of_four_experts(tmp_path, capsys):
    paths = [trained(tmp_path / f"{seed}.db", seed, (0, 1)) for seed in range(6)]
    judgement = judge(read_files(paths)[0])
    assert judgement.verdict.headline.startswith("2 of 4 experts never trained")
    assert all(each.pairs.untrained.everywhere == (2, 3) for each in judgement.measured)
    assert main(["check", str(paths[0])]) == 3
    told = capsys.readouterr().out
    assert "INCONCLUSIVE: 2 of 4 experts never trained" in told
    assert "next: 2 of 4 experts never received a gradient" in told


@pytest.mark.long
def test_a_real_mixture_with_one_trained_expert_is_invalid(tmp_path, capsys):
    assert main(["check", str(trained(tmp_path / "one.db", 0, (3,)))]) == 4
    assert "3 of 4 experts never received a gradient" in capsys.readouterr().out
