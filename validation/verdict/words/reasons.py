"""The words of each reason: a headline of at most 14 words, and one sentence with the numbers that decide.

Pages and reports print them, and nothing parses them.
"""

from __future__ import annotations

import math

from validation.analysis.effects import BOTTOM, DIRECTION, SIZE
from validation.analysis.experiment import SHAM_RUN
from validation.analysis.intervals import Interval
from validation.analysis.measurements import Effect, Measurements
from validation.analysis.mixtures import common_factor, missing_control, why_parallel
from validation.analysis.run import Run
from validation.text import pluralize
from validation.verdict.claims import Decision, Reason
from validation.verdict.words.wording import LESS_SHAMS, QUANTITIES, control_of, measured, measured_parts, shown

MOST_WORDS = 14
NOTHING = "Nothing can be concluded"
HEADLINES = {
    Reason.TOO_FEW_VALID_RUNS: "Too many of these runs cannot be judged",
    Reason.NO_REPLICAS: "These runs are not independent repetitions",
    Reason.SHAM_RUNS_SHOW_AN_EFFECT: "Runs in which nothing was perturbed show an effect too",
    Reason.NOTHING_PERTURBED: "Nothing was perturbed here: these runs are the comparison for others",
    Reason.ONE_COMMON_GRADIENT: "Cannot tell: all experts share one gradient",
    Reason.NOTHING_TO_COMPARE: "Cannot tell: there is no unperturbed expert to compare with",
    Reason.TOO_FEW_PLANNED_ROWS: "Too few steps are logged to decide",
    Reason.BEFORE_FIRST_LOOK: "Too early to say: training has only begun",
    Reason.TOO_FEW_SEEDS: "Too few seeds to decide",
    Reason.TOO_FEW_EXPERTS: "One run with so few experts cannot decide",
    Reason.SHARES_NOT_LOGGED: "Cannot tell the router from the experts: routing shares are not logged",
    Reason.MEANS_OVER_LAYERS: "There is a difference, but the file hides its layers",
    Reason.ROUTING_DIFFERS: "Cannot tell the router from the experts: they get different shares of the data",
    Reason.ODD_EXPERT: "One odd expert in each run may be all there is",
    Reason.DIRECTION_NOT_MEASURED: "Cannot tell: the direction of the gradients was not measured",
    Reason.DIRECTION_SATURATED: "Cannot tell: unperturbed experts already differ as much as experts can",
    Reason.NOISE_NOT_CORRECTED: "The noise of separate batches may hide a difference",
    Reason.DEPENDS_ON_INVALID_RUNS: "The answer depends on runs that cannot be judged",
    Reason.NOT_FINISHED: "Only a finished training shows whether the effect lasts",
    Reason.COLLAPSES: "The effect fades during training",
    Reason.LASTS: "The effect lasts into the last third of training",
    Reason.NOTHING_TO_SUSTAIN: "There is no sure effect that could last",
    Reason.SHARE_UNDECIDED: "Not clear yet how much of the effect lasts",
}
UNCLEAR = "Cannot tell: the measured direction of the gradients is mostly noise"
HEADLINES_OF_CLAIMS = {
    ("awakening", Reason.ABOVE_MARGIN): "Bottom weights awaken: they receive larger gradients",
    ("divergence", Reason.ABOVE_MARGIN): "The perturbed experts follow gradients of their own",
    ("awakening", Reason.INSIDE_MARGIN): "No awakening as large as the threshold",
    ("divergence", Reason.INSIDE_MARGIN): "No divergence as large as the threshold",
    ("awakening", Reason.BOTH_SIDES_OF_MARGIN): "Not clear yet whether bottom weights receive larger gradients",
    ("divergence", Reason.BOTH_SIDES_OF_MARGIN): "Not clear yet whether the gradients differ",
}


def headline(claim: str, decision: Decision, m: Measurements, invalid: str) -> str:
    """Return the reason in at most 14 words. invalid: see `sentence`."""
    if m.single and decision.reason == Reason.TOO_FEW_VALID_RUNS:
        text = f"{NOTHING}: {invalid}"
        return text if len(text.split()) <= MOST_WORDS else f"{NOTHING} from the data of this run"
    if m.unclear and decision.reason == Reason.DIRECTION_NOT_MEASURED:
        return UNCLEAR
    return HEADLINES.get(decision.reason) or HEADLINES_OF_CLAIMS[claim, decision.reason]


def sentence(
    claim: str, decision: Decision, m: Measurements, deciding: tuple[Effect, Interval] | None, run: Run, invalid: str
) -> str:
    """Return the reason as a sentence with its numbers.

    deciding: the effect that decides, or lies farthest out, with its interval. run: any run of the group. invalid: the
    problem of the first run that carries no verdict.
    """
    text = _design(decision.reason, m, run, invalid)
    if text is None and deciding is None:
        text = "nothing could be measured"
    elif text is None and deciding is not None:
        text = (
            _of_sustainment(decision.reason, m, *deciding)
            if claim == "sustainment"
            else _of_effect(decision.reason, m, run, *deciding)
        )
    elif deciding is not None and decision.reason in WITH_ESTIMATE:
        text = f"{text}; {_found(m, run, *deciding)}"
    return str(text)


def _of_effect(reason: Reason, m: Measurements, run: Run, effect: Effect, interval: Interval) -> str:
    found, limit = _found(m, run, effect, interval), _threshold(effect, interval)
    if effect.two_sided:
        low, high = (shown(effect.name, side * effect.margin) for side in (-1, 1))
        stays_open = f"whether it lies outside {low:.2f}x to {high:.2f}x stays open"
    else:
        stays_open = f"whether the effect exceeds {limit} stays open"
    text = {
        Reason.ABOVE_MARGIN: f"{found}; the whole interval lies beyond the threshold of {limit}",
        Reason.INSIDE_MARGIN: f"{found}; an effect of {limit} is ruled out",
    }.get(reason, f"{found}; {stays_open}")
    if effect.opposed:
        unit = "" if effect.name == DIRECTION else "x"
        lowest, highest = (f"{shown(effect.name, layer):.2f}{unit}" for layer in effect.opposed)
        text += f"; it is a mean over layers that differ, from {lowest} in one to {highest} in another"
    return text


WITH_ESTIMATE = {
    Reason.NOTHING_PERTURBED,
    Reason.NOTHING_TO_COMPARE,
    Reason.TOO_FEW_SEEDS,
    Reason.TOO_FEW_EXPERTS,
    Reason.MEANS_OVER_LAYERS,
    Reason.ROUTING_DIFFERS,
    Reason.ODD_EXPERT,
    Reason.DIRECTION_SATURATED,
    Reason.NOISE_NOT_CORRECTED,
    Reason.DEPENDS_ON_INVALID_RUNS,
}


def _design(reason: Reason, m: Measurements, run: Run, invalid: str) -> str | None:
    """Return the sentence of a reason that lies in the design or the data; None for one that lies in the effect."""
    return {
        Reason.TOO_FEW_VALID_RUNS: lambda: (
            invalid if m.single else f"{m.without_verdict} of {pluralize(m.runs, 'run')} carry no verdict: {invalid}"
        ),
        Reason.NO_REPLICAS: lambda: f"{m.copies}, so they do not count as repetitions",
        Reason.SHAM_RUNS_SHOW_AN_EFFECT: lambda: _shams(m),
        Reason.NOTHING_PERTURBED: lambda: "they show what experts do by chance",
        Reason.ONE_COMMON_GRADIENT: lambda: (
            f"{why_parallel(run)}: norms can differ only {common_factor(run)}"
            + ("; there is no control either" if m.control is None else "")
        ),
        Reason.NOTHING_TO_COMPARE: lambda: f"experts differ by chance too; {missing_control(run)}",
        Reason.TOO_FEW_PLANNED_ROWS: lambda: "each of six equal parts of the training needs a logged step",
        Reason.BEFORE_FIRST_LOOK: lambda: "the first interim look comes when two of six parts of the training are done",
        Reason.TOO_FEW_SEEDS: lambda: f"{pluralize(m.units, 'seed')}, and {m.units_needed} are needed",
        Reason.TOO_FEW_EXPERTS: lambda: _experts(m, run),
        Reason.SHARES_NOT_LOGGED: lambda: (
            "a merged gradient grows with the expert's routing share, which is not logged; log routing_weight"
        ),
        Reason.MEANS_OVER_LAYERS: lambda: "a mean over layers can hide that only one layer differs; log table `layers`",
        Reason.ROUTING_DIFFERS: lambda: _loads(m),
        Reason.ODD_EXPERT: lambda: (
            "few experts are compared with many, and by the spread of all of them the difference may be chance"
            if m.single
            else "if the roles of the experts in each run are exchanged at random, as large a difference is not rare"
        ),
        Reason.DIRECTION_NOT_MEASURED: lambda: (
            "two halves of a batch hardly agree on a gradient; larger probe batches show more"
            if m.unclear
            else "no size differs, and directions are not logged, so a difference cannot be ruled out"
        ),
        Reason.DIRECTION_SATURATED: lambda: _saturated(m),
        Reason.NOISE_NOT_CORRECTED: lambda: "each expert sees its own batch, and half-batch products are not logged",
        Reason.DEPENDS_ON_INVALID_RUNS: lambda: (
            f"{m.without_verdict} of {pluralize(m.runs, 'run')} carry no verdict, and what they could show matters"
        ),
        Reason.NOT_FINISHED: lambda: "the last third of the training is not logged yet",
        Reason.NOTHING_TO_SUSTAIN: lambda: "no effect is surely beyond its threshold, over the run or at its beginning",
    }.get(reason, lambda: None)()


def _found(m: Measurements, run: Run, effect: Effect, interval: Interval) -> str:
    """Return an effect with its interval, and what it is compared to."""
    notes = ["by the gradients that the optimizer uses"] if m.source == "merged" and run.mixture != "separate" else []
    notes += ["not corrected for noise"] if not m.corrected and effect.name != BOTTOM else []
    note = f" ({', '.join(notes)})" if notes else ""
    against = control_of(m.control)
    value, where = measured(effect.name, interval, effect.margin), _where(m)
    where += LESS_SHAMS if m.twins and m.control != SHAM_RUN else ""
    where += note
    if effect.name == BOTTOM:
        return f"relative to middle weights, bottom weights receive {value} the gradient of {against} {where}"
    if effect.name == DIRECTION:
        side = "below" if interval.mid < 0 else "above"
        mid, ends = measured_parts(effect.name, interval)
        return f"the direction difference is {mid} {side} that of {against} {f'{ends} ' if ends else ''}{where}"
    of = "" if effect.name == SIZE else f" of the {effect.name.removesuffix('_size')} tier"
    return f"the gradients{of} are {value} as large as those of {against} {where}"


def _where(m: Measurements) -> str:
    return "in this run" if m.single else f"over {pluralize(m.units, 'seed')}"


def _threshold(effect: Effect, interval: Interval) -> str:
    below = effect.two_sided and interval.mid < 0
    value = shown(effect.name, -effect.margin if below else effect.margin)
    return f"{value:.2f}" if effect.name == DIRECTION else f"{value:.2f}x"


def _of_sustainment(reason: Reason, m: Measurements, effect: Effect, kept: Interval) -> str:
    mid, low, high = (f"{x:.0%}" if math.isfinite(x) else "unknown" for x in (kept.mid, kept.low, kept.high))
    share, quantity = f"{mid} [{low}, {high}]", QUANTITIES[effect.name]
    found = f"at the end, {share} of the first {quantity} is left {_where(m)}"
    limit = f"{m.sustained_share:.0%}"
    return {
        Reason.COLLAPSES: f"{found}: surely less than {limit}",
        Reason.LASTS: f"{found}: surely more than {limit}",
    }.get(reason, f"{found}: perhaps more than {limit}, perhaps less")


def _shams(m: Measurements) -> str:
    worst = max(m.sham_effects.values(), key=lambda e: abs(e.interval(m.alpha).mid) / e.margin)
    found = measured(worst.name, worst.interval(m.alpha), worst.margin, signed=True)
    return f"in {len(worst.x_U3)} sham runs, where nothing was perturbed, the {QUANTITIES[worst.name]} is {found}"


def _loads(m: Measurements) -> str:
    noisy = "a gradient over less data is noisier, which changes its size, direction and tiers"
    if m.load is None:
        return f"{noisy}; routing shares are not logged"
    share = m.load.interval(m.alpha)
    found = measured(m.load.name, share, m.load.margin)
    return f"perturbed experts get {found} the routing share of {control_of(m.control)}, and {noisy}"


def _experts(m: Measurements, run: Run) -> str:
    perturbed, controls = (pluralize(len(run.of_role(role)), f"{role} expert") for role in ("perturbed", "control"))
    return f"one run with {perturbed} and {controls}; six seeds, or {m.units_needed} of each, are needed"


def _saturated(m: Measurements) -> str:
    level = m.control_direction.interval(m.alpha).mid if m.control_direction is not None else math.nan
    return f"unperturbed experts have 1 - cosine {level:.2f} to the clean expert, and 1 is the most that chance gives"
