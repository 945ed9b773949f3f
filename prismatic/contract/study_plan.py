"""The plan of a named study: its experiments, hypotheses and thresholds, registered in each run before the first step.

A hypothesis that is written down after the results is no prediction. So each run of a study holds the whole plan as one
JSON text with its hash, and a report answers the hypotheses of that text and no others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

PREFIX = "study."
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")
CLAIMS = ("awakening", "divergence", "sustainment", "distinct")
EFFECTS: Mapping[str, str] = {
    "bottom": "gain of the bottom tier (log)",
    "size": "size of the gradient (log)",
    "direction": "direction of the gradient (1 - cosine)",
    "pair_direction": "direction between the experts of a run (1 - cosine)",
    "pair_weights": "relative distance between the weights of the experts of a run",
    "pair_outputs": "disagreement between the outputs of the experts of a run (1 - cosine)",
    "held_out_loss": "held-out loss (nats)",
}
"""The effects of a run that two experiments can be compared by, and what each is."""
EXPECTED_STATUS = ("supported", "refuted")
EXPECTED_SIDE = ("higher", "lower")
MOST_CHARACTERS = 200_000  # of a plan in a run file
MOST_PARTS = 1_000  # experiments, and hypotheses

Value = bool | int | float | str | None
Options = Mapping[str, Value]


@dataclass(frozen=True)
class Hypothesis:
    """A prediction about some experiments: that a claim is supported or refuted in each of them; or, if it names an
    effect, that this is higher or lower in them than in other experiments, paired by seed.
    """

    expect: str
    """supported or refuted; of an effect higher or lower."""
    claim: str = ""
    effect: str = ""
    of: Options = field(default_factory=dict)
    """Options that the experiments have; empty: all treated experiments."""
    against: Options = field(default_factory=dict)
    """Options that the other experiment has in place of those of `of`."""
    by: float = 0.0
    """The effect must be higher or lower by more than this."""

    @property
    def sentence(self) -> str:
        """The prediction in words."""
        where = named(self.of) or "every treated experiment"
        if self.claim:
            return f"{self.claim} is {self.expect} in {where}"
        margin = f" by more than {self.by:g}" if self.by else ""
        return f"{self.effect} is {self.expect}{margin} in {where} than in {named(self.against)}"

    def as_dict(self) -> dict[str, Any]:
        """Return the hypothesis as JSON values, without what it does not say."""
        known: dict[str, Any] = {"claim": self.claim, "effect": self.effect, "expect": self.expect}
        known |= {"of": dict(self.of), "against": dict(self.against), "by": self.by}
        return {name: value for name, value in known.items() if value not in ("", 0.0, {})}

    @property
    def problem(self) -> str:
        """The reason why this is no hypothesis; empty if it is one."""
        if bool(self.claim) == bool(self.effect):
            return "name either a claim or an effect"
        if self.claim and (self.claim not in CLAIMS or self.expect not in EXPECTED_STATUS or self.against):
            return f"a claim is one of {', '.join(CLAIMS)}, expected supported or refuted, without `against`"
        if self.effect and (self.effect not in EFFECTS or self.expect not in EXPECTED_SIDE or not self.against):
            return f"an effect is one of {', '.join(EFFECTS)}, expected higher or lower than `against`"
        return ""


@dataclass(frozen=True)
class StudyPlan:
    """A study as planned: nothing in it may change after its first run has begun."""

    name: str
    experiments: tuple[Options, ...]
    """The options by which the experiments differ, the same names in each."""
    seeds: tuple[int, ...]
    """Of every experiment, in ascending order."""
    hypotheses: tuple[Hypothesis, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """All thresholds that the study is judged by."""
    question: str = ""

    @property
    def text(self) -> str:
        """The plan as JSON, the same for the same plan."""
        known: dict[str, Any] = {"name": self.name, "question": self.question, "seeds": [*self.seeds]}
        known["thresholds"] = {name: float(value) for name, value in self.thresholds.items()}
        known["experiments"] = [dict(options) for options in self.experiments]
        known["hypotheses"] = [hypothesis.as_dict() for hypothesis in self.hypotheses]
        return json.dumps(known, sort_keys=True)

    @property
    def sha256(self) -> str:
        """The hash of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def promise(self) -> str:
        """The part that runs of one study share, whatever experiments and seeds are added to it, as JSON."""
        known = json.loads(self.text)
        return json.dumps({name: known[name] for name in ("name", "hypotheses", "thresholds")})

    def facts(self) -> dict[str, str]:
        """Return the facts that a run writes before its first step."""
        return {f"{PREFIX}name": self.name, f"{PREFIX}plan": self.text, f"{PREFIX}plan_sha256": self.sha256}

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        """Return the plan that a text of `text` holds; None for any other text."""
        if len(text) > MOST_CHARACTERS:
            return None
        try:
            return cls._from_values(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    @classmethod
    def _from_values(cls, known: Mapping[str, Any]) -> Self | None:
        name, question, seeds = known["name"], known["question"], known["seeds"]
        experiments, hypotheses = known["experiments"], [Hypothesis(**each) for each in known["hypotheses"]]
        thresholds = {str(key): float(value) for key, value in known["thresholds"].items()}
        sound = isinstance(name, str) and NAME.fullmatch(name) and isinstance(question, str)
        sound = sound and all(type(seed) is int for seed in seeds)
        sound = sound and max(len(experiments), len(hypotheses)) <= MOST_PARTS
        options = [*experiments, *(each.of for each in hypotheses), *(each.against for each in hypotheses)]
        if not sound or not all(map(_is_options, options)) or any(map(_is_no_prediction, hypotheses)):
            return None
        return cls(name, tuple(experiments), tuple(seeds), tuple(hypotheses), thresholds, question)


def read_plan(facts: Mapping[str, Any]) -> StudyPlan | None:
    """Return the plan that the facts of a run file register; None if there is none, or if it was altered."""
    text, digest = facts.get(f"{PREFIX}plan"), facts.get(f"{PREFIX}plan_sha256")
    if not isinstance(text, str) or hashlib.sha256(text.encode(errors="replace")).hexdigest() != digest:
        return None
    return StudyPlan.from_text(text)


def has_options(found: Mapping[str, Any], wanted: Options) -> bool:
    """Return True if the options of a run have these values."""
    return all(name in found and found[name] == value for name, value in wanted.items())


def named(options: Options) -> str:
    """Return options as words, such as `method=drop top_k=2`."""
    return " ".join(f"{name}={_word(value)}" for name, value in options.items())


def _word(value: Value) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_options(value: object) -> bool:
    scalars = bool | int | float | str | None
    return isinstance(value, Mapping) and all(isinstance(each, scalars) for each in value.values())


def _is_no_prediction(hypothesis: Hypothesis) -> bool:
    words = (hypothesis.claim, hypothesis.effect, hypothesis.expect)
    number = isinstance(hypothesis.by, int | float) and not isinstance(hypothesis.by, bool)
    return not number or not all(isinstance(word, str) for word in words) or bool(hypothesis.problem)


def experiments_of(options: Sequence[Options]) -> tuple[Options, ...]:
    """Return the different ones among the options of runs, in their order."""
    found: list[Options] = []
    for each in options:
        if each not in found:
            found.append(each)
    return tuple(found)
