"""The share of claims that the gate keeps where nothing is to be kept: A/A pairs, and agents that ask repeatedly.

    python benchmarks/gate.py [--quick] [--json FILE] [--jobs N]

Draws experiments of known truth, as simulated.py does: seeds whose perturbed experts differ from the control experts by
chance only (an A/A pair), or by exactly the margin, the largest effect that must not be kept. Each seed has its sham
twin. Counted is how often `gate` keeps the claim, asked

- at the planned end of six and of twelve seeds;
- after every seed of a plan, by an agent that stops at the first *keep*;
- after every seed, each of which the agent adds to the study by a new plan;
- at the end of each plan, by an agent that plans as many more seeds as the gate asks for.

For comparison, without a limit: after every seed, how often `check` ever said *supported*; and the share of a true
effect of 1.5x that is kept at the end of twelve seeds. A goal fails if the 95 % Clopper-Pearson interval of its share
lies beyond the limit. The table is written to benchmarks/results/gate.json.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from common import ROOT, Skips, conclude, options

sys.path.insert(0, str(ROOT))

from scipy import stats
from simulated import Design, constant, levels_of_group

from prismatic.contract.study import Study
from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import MeasuredRun
from validation.analysis.effects import BOTTOM, DIRECTION, SIZE
from validation.judgement.gate.decision import gate
from validation.judgement.gate.rules import KEEP, MORE_SEEDS
from validation.judgement.judge import Judgement, RunJudgement, combine_judgements
from validation.verdict.claims import SUPPORTED
from validation.verdict.registration import registration_of

RESULTS = ROOT / "benchmarks" / "results" / "gate.json"
RULES = Thresholds()
MARGINS = {
    BOTTOM: np.log(RULES.awakening_ratio),
    SIZE: np.log(RULES.divergence_ratio),
    DIRECTION: RULES.divergence_direction,
}
EFFECT = {BOTTOM: np.log(1.5), SIZE: np.log(1.5), DIRECTION: 0.3}
AA, AT_MARGIN, REAL = "nothing done (A/A)", "at the margin", "a true 1.5x"
EFFECTS = {AA: {}, AT_MARGIN: MARGINS, REAL: EFFECT}
CLAIMS = ("awakening", "divergence")
SPREADS = (0.07, 0.15, 0.3)  # sd of a run's effect between seeds
FEWEST, MOST_ASKED, MOST = 6, 16, 48  # seeds; of those, asked after every one; trained by an agent at most
MOST_PLANS = 6
EXPERIMENTS, QUICK = {AA: 1000, AT_MARGIN: 500, REAL: 200}, 48
ASKED_EVERY = 4  # experiments of which one is asked after every seed, which takes long
CHUNK = 8
END6, END12 = "asked at the end of 6 planned seeds", "asked at the end of 12 planned seeds"
PLANNED, ONE_MORE = "asked after every seed of a plan of 16", "asked after every seed, each added by a new plan"
AGAIN, CHECK = "asked for more seeds until it has them", "check instead of gate, asked after every seed"
LIMIT, KEPT = 0.05, 0.8

Seeds = Sequence[tuple[MeasuredRun, MeasuredRun]]
"""The run and the twin of each seed."""


def drawn(rng: np.random.Generator, truth: str, spread: float) -> Seeds:
    effects = {name: constant(float(value)) for name, value in EFFECTS[truth].items()}
    runs, twins = levels_of_group(Design(seeds=MOST, twins=True, sd=spread, effects=effects), rng)
    return [*zip(runs, twins, strict=True)]


def judged(seeds: Seeds, plans: Sequence[range], claim: str) -> Judgement:
    """Return the judgement of some seeds. plans: the seeds that the runs of each registered."""
    each = []
    for pair, plan in zip(seeds, plans, strict=True):
        for measured in (with_plan(run, plan) for run in pair):
            each.append(RunJudgement((), measured, (), registration_of(measured.run, RULES), {}))
    return combine_judgements((), (), each, RULES, claim)


def with_plan(measured: MeasuredRun, plan: range) -> MeasuredRun:
    facts = {**measured.run.facts, **Study(tuple(plan)).facts()}
    return replace(measured, run=replace(measured.run, facts=facts))


def asked_at_the_end(seeds: Seeds, claim: str, count: int) -> bool:
    return gate(judged(seeds[:count], [range(count)] * count, claim), claim).answer == KEEP


def asked_after_every_seed(seeds: Seeds, claim: str) -> dict[str, bool]:
    """Return what an agent ever hears that asks for the first 6, 7, 8, ... seeds, by its way of asking."""
    heard = dict.fromkeys((PLANNED, ONE_MORE, CHECK), False)
    for count in range(FEWEST, MOST_ASKED + 1):
        plans = [range(max(FEWEST, seed + 1)) for seed in range(count)]
        one_more = judged(seeds[:count], plans, claim)
        planned = replace(
            one_more, measured=tuple(with_plan(measured, range(MOST_ASKED)) for measured in one_more.measured)
        )
        heard[PLANNED] |= gate(planned, claim).answer == KEEP
        heard[ONE_MORE] |= gate(one_more, claim).answer == KEEP
        heard[CHECK] |= one_more.verdict.status == SUPPORTED
    return heard


def asked_for_more(seeds: Seeds, claim: str) -> bool:
    """Return if an agent ever hears *keep* that trains as many seeds as it is asked for."""
    plans = [range(FEWEST)] * FEWEST
    for _ in range(MOST_PLANS):
        found = gate(judged(seeds[: len(plans)], plans, claim), claim)
        if found.answer != MORE_SEEDS or len(plans) == len(seeds):
            return found.answer == KEEP
        wanted = min(len(plans) + found.more_seeds, len(seeds))
        plans += [range(wanted)] * (wanted - len(plans))
    return False


def answers(work: tuple[str, str, float, int]) -> Counter[tuple[str, str, bool]]:
    """Return how often each way of asking led to a kept claim, and how often not, in a few experiments."""
    truth, claim, spread, chunk = work
    found: Counter[tuple[str, str, bool]] = Counter()
    for number in range(CHUNK):
        rng = np.random.default_rng([*f"{truth}{claim}".encode(), round(100 * spread), chunk, number])
        seeds = drawn(rng, truth, spread)
        heard = {END12: asked_at_the_end(seeds, claim, 12)}
        if truth != REAL:
            heard |= {END6: asked_at_the_end(seeds, claim, 6), AGAIN: asked_for_more(seeds, claim)}
            heard |= asked_after_every_seed(seeds, claim) if number % ASKED_EVERY == 0 else {}
        found.update((truth, way, yes) for way, yes in heard.items())
    return found


def goal_rows(found: Mapping[tuple[str, str, bool], int]) -> Iterator[dict[str, Any]]:
    """Yield the share of kept claims for each truth and way of asking, with its interval."""
    ways = (END6, END12, PLANNED, ONE_MORE, AGAIN, CHECK)
    for truth, way in [*product((AA, AT_MARGIN), ways), (REAL, END12)]:
        yes = found[truth, way, True]
        of = yes + found[truth, way, False]
        interval = stats.binomtest(yes, of).proportion_ci(0.95, method="exact")
        low, high = float(interval.low), float(interval.high)
        limit: dict[str, Any] = {"limit": f"<= {LIMIT:g}", "holds": low <= LIMIT}
        if truth == REAL:
            limit = {"limit": f">= {KEPT:g}", "holds": high >= KEPT}
        elif way == CHECK:
            limit = {"limit": "none", "holds": True}
        row = {"goal": f"{truth}: {way}", "figure": yes / of, "low": low, "high": high}
        yield {**row, **limit, "kept": yes, "experiments": of}


def main() -> int:
    """Draw, ask and print; return 0 if every goal holds."""
    parser = options(__doc__, f"{QUICK} experiments of each truth, in place of 1,000 and fewer")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes")
    chosen = parser.parse_args()
    started = time.perf_counter()
    work = [
        (truth, claim, spread, chunk)
        for truth, claim, spread in product(EFFECTS, CLAIMS, SPREADS)
        for chunk in range(-(-(QUICK if chosen.quick else EXPERIMENTS[truth]) // (CHUNK * len(CLAIMS) * len(SPREADS))))
    ]
    found: Counter[tuple[str, str, bool]] = Counter()
    with multiprocessing.get_context("spawn").Pool(chosen.jobs) as pool:
        for some in pool.imap_unordered(answers, work):
            found.update(some)
    seconds = round(time.perf_counter() - started)
    print(f"{seconds} s")
    to = chosen.json or (None if chosen.quick else RESULTS)
    return conclude([*goal_rows(found)], {"seconds": seconds}, Skips(), quick=chosen.quick, to=to)


if __name__ == "__main__":
    sys.exit(main())
