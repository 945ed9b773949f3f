"""The cases of the calibration: how experiments are drawn, which answers are counted, and the limits of these.

A case is a function of a random generator and the parameters of a cell; it draws one experiment and returns its
answers: yes or no, a number of yes among some, or an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from routed import routed_run, with_tokens
from run_changes import scaled, statuses, with_columns, with_rows
from simulated import STEPS, WARMUP, Design, Rows, constant, halving, kept, levels_of_group, runs_of_group

from prismatic.contract.thresholds import Thresholds
from validation.analysis.cohort import Cohort, MeasuredRun, measure_run
from validation.analysis.effects import BOTTOM, DIRECTION, SIZE
from validation.analysis.experiment import effects_of_shams, measure
from validation.analysis.measurements import Measurements
from validation.analysis.run import Run
from validation.diagnostics import invalidating
from validation.judgement.judge import Judgement, combine_judgements, judge_each
from validation.verdict.claims import CONFOUNDED, INCONCLUSIVE, INVALID, REFUTED, SUPPORTED, Reason
from validation.verdict.rules import DECIDE

Dice = np.random.Generator
Answers = Mapping[str, bool | float | tuple[int, int]]
"""Yes or no; a number of yes among some; or an error, which is averaged."""
RULES = Thresholds()
MARGIN = math.log(RULES.awakening_ratio)
AT_MARGIN = {BOTTOM: MARGIN, SIZE: math.log(RULES.divergence_ratio), DIRECTION: RULES.divergence_direction}
KNOWN = {BOTTOM: math.log(1.5), SIZE: math.log(1.3), DIRECTION: 0.2}
COMPONENTS = (BOTTOM, SIZE, DIRECTION)
SPREADS = (0.07, 0.15, 0.3)  # sd of a run's effect between seeds
NOISES = tuple(product((0.5, 0.9, 0.99), (0.1, 0.3)))  # correlation of neighbouring rows, and sd of the noise of a row
ERROR = 0.025  # of one end of an interval
ODD = {BOTTOM: -1.0, SIZE: 1.0}  # what an odd expert has more than the others


@dataclass(frozen=True)
class Goal:
    """A limit of the share of an answer, or of the size of a mean error."""

    answer: str
    limit: float
    most: bool = True


@dataclass(frozen=True)
class Case:
    """A question: how an experiment is drawn, in which cells, how often in all, and the limits of the answers."""

    name: str
    draw: Callable[..., Answers]
    cells: Sequence[Mapping[str, Any]]
    experiments: int
    quick: int
    goals: Sequence[Goal] = field(default_factory=tuple)


def grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """Return every combination of the parameters of a cell."""
    return [dict(zip(values, each, strict=True)) for each in product(*values.values())]


def at_most(limit: float, *answers: str) -> list[Goal]:
    return [Goal(answer, limit) for answer in answers]


def at_least(limit: float, *answers: str) -> list[Goal]:
    return [Goal(answer, limit, most=False) for answer in answers]


# Experiments: levels are measured and decided; runs with rows are judged as files are.


def measured(runs: Sequence[MeasuredRun], twins: Sequence[MeasuredRun] = ()) -> Measurements:
    """Return a group of runs as measurements, with what the sham runs show."""
    cohort = Cohort([*runs, *twins])
    return measure(runs, cohort, RULES, effects_of_shams(runs, cohort, RULES))


def judged(runs: Sequence[Run]) -> Judgement:
    """Judge runs as run files are."""
    return combine_judgements((), (), judge_each(runs, RULES), RULES)


def said(m: Measurements) -> dict[str, bool]:
    """Return for each claim and status if it is said."""
    found = {name: rule(m).status for name, rule in DECIDE.items()}
    return {f"{name} {status}": found[name] == status for name in found for status in (SUPPORTED, REFUTED)}


def verdict_says(judgement: Judgement) -> dict[str, bool]:
    """Return the same, of the claims over all runs."""
    found = {name: claim.status for name, claim in judgement.verdict.headlines.items()}
    return {f"{name} {status}": found[name] == status for name in found for status in (SUPPORTED, REFUTED)}


def covered(m: Measurements, truth: Mapping[str, float]) -> dict[str, bool]:
    """Return for each measured effect if its interval holds the truth."""
    found = {}
    for name, effect in m.effects.items():
        interval = effect.interval(m.alpha)
        found[f"{name} covered"] = interval.low <= truth[name] <= interval.high
    return found


def of_judgement(judgement: Judgement) -> Measurements:
    """Return the treated group of a judgement as measurements."""
    treated = [each for each in judgement.measured if not each.run.is_sham]
    return measure(treated, judgement.cohort, RULES, {})


def steady(effects: Mapping[str, float]) -> dict[str, Any]:
    return {name: constant(value) for name, value in effects.items()}


# Decisions at the margins, where an error is most likely.


def margin(dice: Dice, *, seeds: int, sd: float, twins: bool) -> Answers:
    """The true effects are exactly at their margins."""
    return said(measured(*levels_of_group(Design(seeds, sd=sd, twins=twins, effects=steady(AT_MARGIN)), dice)))


def margin_of_rows(dice: Dice, *, sd: float, rho: float, noise: float) -> Answers:
    """The same, with rows."""
    design, rows = Design(sd=sd, twins=True, effects=steady(AT_MARGIN)), Rows(rho=rho, noise=noise)
    judgement = judged(runs_of_group(design, rows, dice))
    return {**verdict_says(judgement), **covered(of_judgement(judgement), AT_MARGIN)}


def null_of_rows(dice: Dice, *, sd: float, rho: float, noise: float, probe: bool) -> Answers:
    """Nothing was perturbed; with isolated gradients, or with merged ones alone."""
    judgement = judged(runs_of_group(Design(sd=sd), Rows(rho=rho, noise=noise, probe=probe), dice))
    return {**verdict_says(judgement), **covered(of_judgement(judgement), dict.fromkeys(COMPONENTS, 0.0))}


def effect_of_rows(dice: Dice, *, sd: float, rho: float, noise: float) -> Answers:
    """The true effects are large: 1.5x, 1.3x and 0.2."""
    judgement = judged(runs_of_group(Design(sd=sd, effects=steady(KNOWN)), Rows(rho=rho, noise=noise), dice))
    return {**verdict_says(judgement), **covered(of_judgement(judgement), KNOWN)}


def coin(dice: Dice, *, seeds: int, perturbed: int) -> Answers:
    """Nothing was perturbed, and in each run one of two experts wins by the toss of a coin."""
    runs, _ = levels_of_group(Design(seeds, perturbed=perturbed, controls=1, sd=0.1), dice)
    for run in runs:
        for name in COMPONENTS:
            run.isolated.of[name][1] += dice.choice((-0.5, 0.5))
    return judgeable(measured(runs))


def odd(dice: Dice, *, seeds: int, roles: tuple[int, int], effect: str) -> Answers:
    """Nothing was perturbed, and in each run one expert is odd, whatever its role. roles: perturbed and controls."""
    perturbed, controls = roles
    runs, _ = levels_of_group(Design(seeds, perturbed, controls, sd=0.05), dice)
    for run in runs:
        run.isolated.of[effect][dice.integers(1, 1 + perturbed + controls)] += ODD[effect]
    return judgeable(measured(runs))


def odd_ones_of_one_run(dice: Dice, *, controls: int, share: float, effect: str) -> Answers:
    """Nothing was perturbed, and a share of the experts of a single run is odd."""
    runs, _ = levels_of_group(Design(1, 3, controls, sd=0.05), dice)
    runs[0].isolated.of[effect][1:][dice.random(3 + controls) < share] += ODD[effect]
    return judgeable(measured(runs))


def judgeable(m: Measurements) -> dict[str, bool]:
    """Return what is said, and whether the design was judged at all: an invalid null is no success."""
    return said(m) | {"invalid": any(rule(m).status == INVALID for rule in DECIDE.values())}


def unequal_shares(dice: Dice, *, bias: float, spread: float, signal: float) -> Answers:
    """All experts have the same weights, and a router that prefers some by a bias merges them for each example.

    A gradient is the mean of those of the examples, weighted by the expert's shares; bottom weights have little signal.
    """
    runs = [routed_run(seed, dice, bias=bias, spread=spread, signal=signal) for seed in range(6)]
    return verdict_says(judged(runs))


def tokens_by_role(dice: Dice, *, share: float) -> Answers:
    """Tokens are routed to some experts, gradients grow with them, and perturbed experts get a share of the others'."""
    runs = runs_of_group(Design(perturbed=2, controls=3, sd=0.05, layers=1), Rows(probe=False), dice)
    return verdict_says(judged([with_tokens(run, share) for run in runs]))


def paired(dice: Dice, *, seeds: int) -> Answers:
    """The direction differs by 0.20, and a seed does nearly the same to a run and to its twin."""
    design = Design(
        seeds, twins=True, effects=steady({DIRECTION: 0.2}), twin={BOTTOM: 0.95, SIZE: 0.95, DIRECTION: 0.95}
    )
    return said(measured(*levels_of_group(design, dice)))


def shams(dice: Dice, *, seeds: int, sd: float) -> Answers:
    """The A/A check: honest sham runs, in which nothing was done."""
    runs, _ = levels_of_group(Design(seeds, sd=sd, sham=True), dice)
    return {"check fails": DECIDE["awakening"](measured(runs)).reason == Reason.SHAM_RUNS_SHOW_AN_EFFECT}


def looks(dice: Dice, *, sd: float, twins: bool) -> Answers:
    """The true effects are at their margins, and the runs are judged when two and four of six bins are there."""
    runs, others = levels_of_group(Design(sd=sd, twins=twins, effects=steady(AT_MARGIN)), dice)
    early = [said(measured(*(_until(some, bins) for some in (runs, others)))) for bins in (2, 4)]
    return {answer: any(look[answer] for look in early) for answer in early[0]}


def _until(runs: Sequence[MeasuredRun], bins: int) -> list[MeasuredRun]:
    return [replace(run, merged=(part := _complete(run, bins)), isolated=part) for run in runs]


def _complete(run: MeasuredRun, bins: int) -> Any:
    return replace(run.isolated, bins=replace(run.isolated.bins, complete=bins))


def one_run(dice: Dice, *, perturbed: int, controls: int, effect: float, sd: float) -> Answers:
    """A single run, judged by its experts. effect: in margins."""
    truth = {name: effect * value for name, value in AT_MARGIN.items()}
    design = Design(1, perturbed, controls, sd=sd, effects=steady(truth))
    m = measured(levels_of_group(design, dice)[0])
    return {**said(m), **covered(m, truth)}


# Sustainment.


def half(dice: Dice, *, seeds: int, sd: float, effects: tuple[str, ...]) -> Answers:
    """Exactly half of each effect is left."""
    design = Design(seeds, sd=sd, effects={name: kept(max(3 * sd, 0.4), RULES.sustained_share) for name in effects})
    return _kept(measured(levels_of_group(design, dice)[0]), effects)


def half_of_one_run(dice: Dice, *, perturbed: int, controls: int, sd: float) -> Answers:
    """Exactly half of an effect is left in a single run, judged by its experts."""
    design = Design(1, perturbed, controls, sd=sd, effects={SIZE: kept(1.0, RULES.sustained_share)})
    return _kept(measured(levels_of_group(design, dice)[0]), (SIZE,))


def _kept(m: Measurements, effects: Sequence[str]) -> Answers:
    answers = said(m)
    for name in effects:
        interval = m.effects[name].kept(m.alpha)
        answers[f"{name} covered"] = interval.low <= RULES.sustained_share <= interval.high
    return {answer: yes for answer, yes in answers.items() if answer.startswith(("sustainment", *effects))}


def rotation(
    dice: Dice, *, life: float | None, reliability: tuple[float, float], least: float, dimensions: int
) -> Answers:
    """A rotation on batches of the experts' own: constant, or halved within a share of the training.

    least: the reliability from which a direction counts as measured.
    """
    course = constant(0.2) if life is None else halving(0.6, life)
    design = Design(10, sd=0.05, layers=1, effects={DIRECTION: course})
    runs = runs_of_group(design, Rows(every=2, reliability=reliability, dimensions=dimensions), dice)
    m = measured([measure_run(run, replace(RULES, reliability=least)) for run in runs])
    answers = {"sustainment refuted": DECIDE["sustainment"](m).status == REFUTED, "measured": DIRECTION in m.effects}
    if life is None and DIRECTION in m.effects:
        return {**answers, "error of the estimate": float(m.effects[DIRECTION].x_U3[:, 0].mean()) - 0.2}
    return answers


# Data: what may not change an answer, and what must not be judged.


def unit_of_the_loss(dice: Dice, *, effect: float, probe: bool) -> Answers:
    """The loss is multiplied by 0.01 and by 100."""
    design = Design(twins=True, effects=steady({name: effect * value for name, value in KNOWN.items()}))
    runs = runs_of_group(design, Rows(probe=probe), dice)
    plain = statuses(judged(runs).verdict)
    others = [statuses(judged([scaled(run, factor) for run in runs]).verdict) for factor in (0.01, 100)]
    return {"statuses change": any(other != plain for other in others)}


def shuffled(dice: Dice, *, effect: float) -> Answers:
    """The rows after the warm-up are exchanged among each other."""
    design = Design(effects=steady({name: effect * value for name, value in KNOWN.items()}))
    runs = runs_of_group(design, Rows(rho=0.99, noise=0.3), dice)
    plain, other = (judged(some).verdict.headlines for some in (runs, [_shuffled(run, dice) for run in runs]))
    changed = {f"{name} changes": plain[name].status != other[name].status for name in ("awakening", "divergence")}
    return {**changed, "null supported": SUPPORTED in [claim.status for claim in other.values()] and not effect}


def _shuffled(run: Run, dice: Dice) -> Run:
    places = np.arange(len(run.steps))
    after = run.steps >= WARMUP * STEPS
    places[after] = dice.permutation(places[after])
    return with_columns(run, lambda columns: {name: column[places] for name, column in columns.items()})


def dense(dice: Dice, *, effect: float) -> Answers:
    """The start of the training is logged three times as often as declared."""
    design = Design(effects=steady({name: effect * value for name, value in KNOWN.items()}))
    runs = runs_of_group(design, Rows(every=2), dice)
    declared = [_declared(run, 6) for run in runs]
    even = [with_rows(run, run.steps % 6 == 0) for run in declared]
    early = [with_rows(run, (run.steps % 6 == 0) | (run.steps < STEPS / 25)) for run in declared]
    return {"statuses change": statuses(judged(even).verdict) != statuses(judged(early).verdict)}


def _declared(run: Run, every: int) -> Run:
    facts = {**run.facts, "config.log_freq": every, "config.probe_freq": every}
    return replace(run, facts=facts, isolated=run.isolated and replace(run.isolated, facts=facts))


def lost(dice: Dice, *, every: int) -> Answers:
    """One row in twenty is lost at random."""
    runs = runs_of_group(Design(), Rows(every=every), dice)
    some = [with_rows(run, dice.random(len(run.steps)) >= 0.05) for run in runs]
    findings = [finding for each in judge_each(some, RULES) for finding in each.findings]
    return {"runs invalid": (len(invalidating(findings)), len(some))}


def chosen(dice: Dice, *, damage: str, rho: float) -> Answers:
    """Rows are chosen by their value, so that a null looks like an awakening; or values are missing."""
    runs = runs_of_group(Design(), Rows(rho=rho), dice)
    claims = judged([DAMAGES[damage](run) for run in runs]).verdict.headlines
    return {"invalid": claims["awakening"].status == INVALID}


def _gain(run: Run) -> np.ndarray[Any, Any]:
    """Return by how much the bottom norms of the perturbed experts exceed those of the controls, [T]."""
    gains = {
        role: [e.log("bottom_norm") - e.log("middle_norm") for e in run.of_role(role)]
        for role in ("perturbed", "control")
    }
    return np.asarray(np.mean(gains["perturbed"], axis=0) - np.mean(gains["control"], axis=0))


def _without_lowest(run: Run) -> Run:
    gain_T = _gain(run.isolated or run)
    return with_rows(run, gain_T >= np.quantile(gain_T, 0.2))


def _best_of_ten(run: Run) -> Run:
    gain_T = _gain(run.isolated or run)
    return with_rows(
        run, np.array([place + gain_T[place : place + 10].argmax() for place in range(0, len(gain_T), 10)])
    )


def _without_probes_of_a_control(run: Run) -> Run:
    control = run.of_role("control")[0].index
    gain_T = _gain(run.isolated)
    return _blank(run, gain_T < np.quantile(gain_T, 0.3), {control}, isolated=True)


def _blank(run: Run, rows_T: Any, experts: set[int], *, isolated: bool = False) -> Run:
    """Return the run without the values of some experts in some rows."""

    def blanked(part: Run) -> Run:
        def of(place: Any) -> Any:
            return {
                number: replace(each, columns={n: np.where(rows_T, np.nan, c) for n, c in each.columns.items()})
                if number in experts
                else each
                for number, each in place.items()
            }

        return replace(part, experts=of(part.experts), layers=[of(layer) for layer in part.layers])

    alone = run.isolated and blanked(run.isolated)
    return replace(run if isolated else blanked(run), isolated=alone)


def _missing(share: float) -> Callable[[Run], Run]:
    def missing(run: Run) -> Run:
        places = np.random.default_rng(len(run.steps)).random(len(run.steps))
        return _blank(run, places < share, {*run.experts})

    return missing


def _missing_end(run: Run) -> Run:
    return _blank(run, run.steps > 0.7 * STEPS, {*run.experts})


DAMAGES: dict[str, Callable[[Run], Run]] = {
    "the lowest 20 % of the rows removed": _without_lowest,
    "the best row of each ten": _best_of_ten,
    "probe rows of a control removed by value": _without_probes_of_a_control,
    "40 % of the rows missing": _missing(0.4),
    "the last 30 % missing": _missing_end,
}


def design_that_cannot_show(dice: Dice, *, design: str) -> Answers:
    """A design that cannot show an effect, however large: one common gradient, or nothing to compare with."""
    effects = steady(KNOWN)
    if design == "one common gradient":
        runs = [_common(run) for run in runs_of_group(Design(effects=effects), Rows(probe=False), dice)]
    else:
        runs = runs_of_group(Design(controls=0, effects=effects), Rows(), dice)
    found = [claim.status for claim in judged(runs).verdict.headlines.values()]
    return {"confounded": set(found[:2]) == {CONFOUNDED}, "supported": SUPPORTED in found}


def _common(run: Run) -> Run:
    """Return the run as if one merge per batch gave every expert the clean expert's gradient times its share."""

    def of(place: Any) -> Any:
        clean = place[0].columns
        return {
            number: replace(
                each,
                columns={
                    **each.columns,
                    **{
                        name: clean[name] * each["routing_weight"] / clean["routing_weight"]
                        for name in ("norm", "top_norm", "bottom_norm", "middle_norm")
                    },
                    "direction": np.zeros(len(run.steps)),
                },
            )
            for number, each in place.items()
        }

    facts = {**run.facts, "config.merge": "batch"}
    return replace(run, facts=facts, experts=of(run.experts), layers=[of(layer) for layer in run.layers])


def single_runs_of_few(dice: Dice, *, perturbed: int, controls: int) -> Answers:
    """One run with fewer than three experts of a role."""
    runs = runs_of_group(Design(1, perturbed, controls, effects=steady(KNOWN)), Rows(), dice)
    found = {claim.status for claim in judged(runs).verdict.headlines.values()}
    return {"inconclusive": found == {INCONCLUSIVE}}


FALSE = ("awakening supported", "divergence supported", "sustainment supported")
OF_ROWS = grid(sd=SPREADS, rho=(0.5, 0.99), noise=(0.1, 0.3))
COVERED = tuple(f"{name} covered" for name in COMPONENTS)

CASES = (
    *(
        Case(
            f"truth at the margin, {seeds} seeds",
            margin,
            grid(seeds=[seeds], sd=SPREADS, twins=(False, True)),
            6000,
            360,
            at_most(ERROR, *FALSE[:2], "awakening refuted", "divergence refuted"),
        )
        for seeds in (6, 10, 20)
    ),
    Case(
        "truth at the margin, rows, twins",
        margin_of_rows,
        OF_ROWS,
        600,
        36,
        [*at_most(ERROR, *FALSE[:2], "awakening refuted", "divergence refuted"), *at_least(0.94, *COVERED)],
    ),
    Case(
        "null, rows",
        null_of_rows,
        grid(sd=SPREADS, rho=(0.5, 0.99), noise=(0.1, 0.3), probe=(True, False)),
        1200,
        48,
        [*at_most(ERROR, *FALSE), *at_least(0.94, *COVERED)],
    ),
    Case(
        "true 1.5x, 1.3x and 0.20, rows",
        effect_of_rows,
        OF_ROWS,
        600,
        36,
        [*at_most(ERROR, "awakening refuted", "divergence refuted"), *at_least(0.94, *COVERED)],
    ),
    Case(
        "null decided by the toss of a coin",
        coin,
        grid(seeds=(6, 10), perturbed=(1,)),
        4000,
        400,
        # Sustainment is about both other claims, whose coins are tossed apart.
        [*at_most(0.035, *FALSE[:2]), *at_most(0.05, FALSE[2]), *at_most(0.01, "invalid")],
    ),
    Case(
        "null with one odd expert in each run",
        odd,
        grid(seeds=(6, 10), roles=((1, 2), (1, 3), (1, 5), (2, 3), (3, 3), (2, 8)), effect=(BOTTOM, SIZE)),
        4800,
        480,
        [*at_most(0.03, *FALSE), *at_most(0.01, "invalid")],
    ),
    Case(
        "null with odd experts, one run",
        odd_ones_of_one_run,
        grid(controls=(3, 8, 30, 60), share=(0.25, 0.5), effect=(BOTTOM, SIZE)),
        4800,
        480,
        [*at_most(0.03, *FALSE), *at_most(0.01, "invalid")],
    ),
    Case(
        "null with unequal routing shares, merged gradients",
        unequal_shares,
        grid(bias=(-2.0, -1.0, 1.0), spread=(0.3, 1.0), signal=(0.1, 0.3, 1.0)),
        360,
        18,
        at_most(0.01, *FALSE),
    ),
    Case(
        "null with unequal numbers of tokens, merged gradients",
        tokens_by_role,
        grid(share=(0.5, 0.8, 1.25)),
        120,
        9,
        at_most(0.01, *FALSE),
    ),
    *(
        Case(
            f"paired 0.20 in direction, {seeds} seeds", paired, grid(seeds=[seeds]), 1000, 100, at_least(0.95, FALSE[1])
        )
        for seeds in (6, 10)
    ),
    Case("honest sham runs", shams, grid(seeds=(6, 10, 20), sd=SPREADS), 4500, 450, at_most(0.02, "check fails")),
    Case(
        "interim looks at the margin",
        looks,
        grid(sd=SPREADS, twins=(False, True)),
        4200,
        300,
        at_most(ERROR, *FALSE[:2]),
    ),
    Case(
        "one run, null",
        one_run,
        grid(perturbed=(3, 4, 6), controls=(3, 4), effect=[0.0], sd=SPREADS),
        5400,
        450,
        [*at_most(ERROR, *FALSE), *at_least(0.92, *COVERED)],
    ),
    Case(
        "one run, truth at the margin",
        one_run,
        grid(perturbed=(3, 4, 6), controls=(3, 4), effect=[1.0], sd=SPREADS),
        5400,
        450,
        [*at_most(ERROR, *FALSE[:2]), *at_least(0.92, *COVERED)],
    ),
    *(
        Case(
            f"half of an effect kept, {seeds} seeds",
            half,
            grid(seeds=[seeds], sd=SPREADS, effects=[(name,) for name in COMPONENTS]),
            5400,
            360,
            [*at_most(ERROR, "sustainment supported", "sustainment refuted"), *at_least(0.94, *COVERED)],
        )
        for seeds in (6, 10, 20)
    ),
    Case(
        "half of each of three effects kept",
        half,
        grid(seeds=(6, 20), sd=SPREADS, effects=[COMPONENTS]),
        3000,
        300,
        at_most(ERROR, "sustainment supported", "sustainment refuted"),
    ),
    Case(
        "half of an effect kept, one run",
        half_of_one_run,
        grid(perturbed=(3, 6), controls=(3, 4), sd=SPREADS),
        4800,
        360,
        [*at_most(ERROR, "sustainment supported", "sustainment refuted"), *at_least(0.94, f"{SIZE} covered")],
    ),
    Case(
        "constant rotation on own batches",
        rotation,
        grid(life=[None], reliability=[(0.46, 0.18)], least=[RULES.reliability], dimensions=[100]),
        400,
        24,
        [*at_most(ERROR, "sustainment refuted"), *at_most(0.01, "error of the estimate"), *at_least(0.99, "measured")],
    ),
    Case(
        "the same, reliability 0.18 to 0.07, threshold 0.05",
        rotation,
        grid(life=[None], reliability=[(0.18, 0.07)], least=[0.05], dimensions=[400]),
        100,
        6,
        [*at_most(ERROR, "sustainment refuted"), *at_most(0.01, "error of the estimate")],
    ),
    Case(
        "halving of a rotation within a quarter",
        rotation,
        grid(life=[0.25], reliability=[(0.46, 0.18)], least=[RULES.reliability], dimensions=[100]),
        400,
        24,
        at_least(0.95, "sustainment refuted"),
    ),
    Case(
        "unit of the loss",
        unit_of_the_loss,
        grid(effect=(0.0, 0.5, 1.0), probe=(True, False)),
        120,
        12,
        at_most(0.0, "statuses change"),
    ),
    Case(
        "rows shuffled",
        shuffled,
        grid(effect=(0.0, 0.5, 1.0)),
        300,
        18,
        at_most(ERROR, "awakening changes", "divergence changes", "null supported"),
    ),
    Case(
        "dense early rows, frequency declared",
        dense,
        grid(effect=(0.0, 0.5, 1.0)),
        150,
        12,
        at_most(0.0, "statuses change"),
    ),
    Case("5 % of the rows lost", lost, grid(every=(4, 6, 10)), 300, 18, at_most(0.05, "runs invalid")),
    *(
        Case(damage, chosen, grid(damage=[damage], rho=(0.5, 0.99)), 100, 10, at_least(0.99, "invalid"))
        for damage in DAMAGES
    ),
    *(
        Case(
            name,
            design_that_cannot_show,
            grid(design=[name]),
            40,
            6,
            [*at_least(0.99, "confounded"), *at_most(0.0, "supported")],
        )
        for name in ("one common gradient", "nothing to compare with")
    ),
    Case(
        "one run of few experts",
        single_runs_of_few,
        grid(perturbed=(1, 2), controls=(1, 2, 4)),
        60,
        6,
        at_least(0.99, "inconclusive"),
    ),
)
