"""The words of each reason: a headline of at most 14 words, and one sentence with the numbers that decide.

Pages and reports print them, and nothing parses them.
"""

from __future__ import annotations

import math

from validation.analysis.bins import BINS
from validation.analysis.effects import BOTTOM, DIRECTION
from validation.analysis.experiment import CONTROL_EXPERT, FROZEN_ROUTING, SHAM_RUN
from validation.analysis.intervals import Interval
from validation.analysis.measurements import Effect, Measurements
from validation.analysis.mixtures import common_factor, missing_control, why_parallel
from validation.analysis.run import Run
from validation.text import pluralize
from validation.verdict.claims import Decision, Reason
from validation.verdict.words.wording import QUANTITIES, measured, shown

MOST_WORDS = 14
POSITIVE = " (positive control: the effect was put in by hand)"
AGAINST = {
    CONTROL_EXPERT: "that of the control experts",
    FROZEN_ROUTING: "that of the clean expert",
    SHAM_RUN: "that of the sham runs",
}
HEADLINES = {
    Reason.TOO_FEW_VALID_RUNS: "Too much of the data carries no verdict",
    Reason.NO_REPLICAS: "These runs do not repeat the experiment independently",
    Reason.SHAM_RUNS_SHOW_AN_EFFECT: "Runs in which nothing was perturbed show an effect too",
    Reason.NOTHING_PERTURBED: "Nothing was perturbed in these runs: they serve as controls",
    Reason.ONE_COMMON_GRADIENT: "All experts share one gradient, so they cannot learn differently",
    Reason.NOTHING_TO_COMPARE: "No unperturbed expert shows what the perturbation caused",
    Reason.TOO_FEW_PLANNED_ROWS: "Too few logged steps were planned to decide",
    Reason.BEFORE_FIRST_LOOK: "Too early to say: training has only begun",
    Reason.TOO_FEW_SEEDS: "Too few seeds to decide",
    Reason.TOO_FEW_EXPERTS: "One run with so few experts cannot decide",
    Reason.SHARES_NOT_LOGGED: "Without routing shares, the router cannot be told from the experts",
    Reason.MEANS_OVER_LAYERS: "There is a difference, but the file hides its layers",
    Reason.DIRECTION_NOT_MEASURED: "The direction of the gradients was not measured",
    Reason.DIRECTION_SATURATED: "Unperturbed experts already differ as much as experts can",
    Reason.NOISE_NOT_CORRECTED: "The noise of separate batches hides what the experts share",
    Reason.DEPENDS_ON_INVALID_RUNS: "The answer hangs on runs that carry no verdict",
    Reason.NOT_FINISHED: "Only a finished training shows whether the effect lasts",
    Reason.COLLAPSES: "The effect of the perturbation fades during training",
    Reason.LASTS: "The effect of the perturbation lasts until the end of training",
    Reason.NOTHING_TO_SUSTAIN: "There is no sure effect that could last",
    Reason.SHARE_UNDECIDED: "It is not clear how much of the effect lasts",
}
HEADLINES_OF_CLAIMS = {
    ("awakening", Reason.ABOVE_MARGIN): "The perturbation awakens the bottom weights",
    ("divergence", Reason.ABOVE_MARGIN): "The perturbed experts follow gradients of their own",
    ("awakening", Reason.INSIDE_MARGIN): "The perturbation does not awaken the bottom weights",
    ("divergence", Reason.INSIDE_MARGIN): "The perturbed experts learn like unperturbed ones",
    ("awakening", Reason.BOTH_SIDES_OF_MARGIN): "It is not clear whether the bottom weights awaken",
    ("divergence", Reason.BOTH_SIDES_OF_MARGIN): "It is not clear whether the gradients differ",
}


def headline(claim: str, decision: Decision, m: Measurements) -> str:
    """Return the reason in at most 14 words."""
    if m.single and decision.reason == Reason.TOO_FEW_VALID_RUNS:
        return "The data of this run carries no verdict"
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
    if 0 < m.bins < BINS:
        text = f"{text} (interim look at {m.bins} of {BINS} parts of the training)"
    return f"{text}{POSITIVE}" if run.is_positive_control else str(text)


def _of_effect(reason: Reason, m: Measurements, run: Run, effect: Effect, interval: Interval) -> str:
    found, limit = _found(m, run, effect, interval), _threshold(effect, interval)
    return {
        Reason.ABOVE_MARGIN: f"{found}, beyond the threshold {limit}",
        Reason.INSIDE_MARGIN: f"{found}, which rules out {limit}",
    }.get(reason, f"{found}, on both sides of the threshold {limit}")


WITH_ESTIMATE = {
    Reason.NOTHING_PERTURBED,
    Reason.NOTHING_TO_COMPARE,
    Reason.TOO_FEW_SEEDS,
    Reason.TOO_FEW_EXPERTS,
    Reason.MEANS_OVER_LAYERS,
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
        Reason.NO_REPLICAS: lambda: f"{m.copies}, and copies are no repetitions",
        Reason.SHAM_RUNS_SHOW_AN_EFFECT: lambda: _shams(m),
        Reason.NOTHING_PERTURBED: lambda: "the runs of scale 0 show what experts do by chance",
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
    notes = ["of the merged gradients"] if m.source == "merged" and run.merges_parameters else []
    notes += ["not corrected for noise"] if not m.corrected and effect.name != BOTTOM else []
    note = f" ({', '.join(notes)})" if notes else ""
    against = AGAINST.get(m.control or "", "that of the clean expert")
    against += ", beyond the sham runs" if m.twins and m.control != SHAM_RUN else ""
    value, quantity = measured(effect.name, interval), QUANTITIES[effect.name]
    relation = f"differs by {value} more than" if effect.name == DIRECTION else f"is {value}"
    return f"{quantity}{note} {relation} {against} {_where(m)}"


def _where(m: Measurements) -> str:
    return "in this run" if m.single else f"over {pluralize(m.units, 'seed')}"


def _threshold(effect: Effect, interval: Interval) -> str:
    below = effect.two_sided and interval.mid < 0
    value = shown(effect.name, -effect.margin if below else effect.margin)
    return f"{value:.2f}" if effect.name == DIRECTION else f"{value:.2f}x"


def _of_sustainment(reason: Reason, m: Measurements, effect: Effect, kept: Interval) -> str:
    mid, low, high = (f"{x:.0%}" if math.isfinite(x) else "unknown" for x in (kept.mid, kept.low, kept.high))
    quantity = QUANTITIES[effect.name]
    share = f"{mid} [{low}, {high}]"
    found = f"the end of training keeps {share} of the first difference in {quantity} {_where(m)}"
    limit = f"{m.sustained_share:.0%}"
    return {
        Reason.COLLAPSES: f"{found}, less than {limit}",
        Reason.LASTS: f"{found}, more than {limit}",
    }.get(reason, f"{found}, on both sides of {limit}")


def _shams(m: Measurements) -> str:
    worst = max(m.sham_effects.values(), key=lambda e: abs(e.interval(m.alpha).mid) / e.margin)
    found = measured(worst.name, worst.interval(m.alpha))
    return f"in {len(worst.x_U3)} sham runs {QUANTITIES[worst.name]} differs by {found}, where nothing was done"


def _experts(m: Measurements, run: Run) -> str:
    perturbed, controls = (pluralize(len(run.of_role(role)), f"{role} expert") for role in ("perturbed", "control"))
    return f"one run with {perturbed} and {controls}; six seeds, or {m.units_needed} of each, are needed"


def _saturated(m: Measurements) -> str:
    level = m.control_direction.interval(m.alpha).mid if m.control_direction is not None else math.nan
    return f"unperturbed experts have 1 - cosine {level:.2f} to the clean expert, and 1 is the most that chance gives"
