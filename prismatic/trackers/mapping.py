"""Which of a tracker's names is which of ours: a small TOML file, read and checked.

step = "trainer/global_step"        # the metric that counts steps, where the tracker's own count is another
experts = [1, 2, 3]                 # their numbers in our order, the clean one first; default: as they are
roles = ["clean", "perturbed", "control"]
mixture = "top_k"
planned_steps = 2000

[metrics]                           # theirs = ours
"moe/expert_{i}/{tier}_grad" = "expert_{i}_{tier}_norm"
"re:block(?P<layer>[0-9]+)[.]e(?P<i>[0-9]+)[.]cos" = "layer_{layer}_expert_{i}_gradient_cosine"
"train/loss" = "loss"

[options]                           # what makes runs replicas or experiments of their own
seed = "{train.seed}"               # from the tracker's config
perturbation_scale = 1.0
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Formatter
from typing import Any

from prismatic.contract.schema import LAYERS_COLUMNS, METRICS, MIXTURES, ROLES, STEP_COLUMNS, TIERS
from prismatic.errors import ConfigError
from prismatic.trackers.tracked import flat

OF_EXPERT = {metric.name for metric in METRICS} | {"norm"}
WHOLE = ("norm", "clean_norm", "perturbed_norm")  # of an expert's whole gradient; ours goes by which expert it is
SCORES = ("divergence", "relative_divergence", "direction")  # against expert 0, which has none itself
OF_LAYER = {column.name for column in LAYERS_COLUMNS} - {"step", "layer", "expert", "source"}
OF_STEP = {column.name for column in STEP_COLUMNS} - {"step", "nan_values", "wall_time"}
PLACES = {
    "i": "[0-9]{1,4}",
    "layer": "[0-9]{1,4}",
    "tier": "|".join(TIERS),
    "metric": "|".join(sorted(OF_EXPERT | OF_LAYER, key=len, reverse=True)),
}
OPTION = re.compile(r"[a-z][a-z0-9_]{0,60}")
FROM_CONFIG = re.compile(r"\{(.+)\}")
SETTINGS = ("step", "experts", "roles", "mixture", "planned_steps", "warmup_steps", "metrics", "options")
DEFAULT = {  # what our own mirror writes, and the names of the columns themselves
    "metrics": {
        f"{prefix}{name}": name
        for prefix in ("prismatic/", "")
        for name in ("expert_{i}_{metric}", "layer_{layer}_expert_{i}_{metric}", *sorted(OF_STEP))
    }
}


@dataclass(frozen=True)
class Target:
    """One of our columns: of a step, of an expert, or of an expert in a layer."""

    metric: str
    expert: int | None = None
    layer: int | None = None

    @property
    def known(self) -> bool:
        """Whether a run file has such a column."""
        if self.expert is None:
            return self.metric in OF_STEP
        if self.layer is not None:
            return self.metric in OF_LAYER
        return self.metric in OF_EXPERT and (self.expert > 0 or self.metric not in SCORES)

    def __str__(self) -> str:
        layer = "" if self.layer is None else f"layer_{self.layer}_"
        return self.metric if self.expert is None else f"{layer}expert_{self.expert}_{self.metric}"


TARGET = re.compile(r"(?:(?:layer_([0-9]+)_)?expert_([0-9]+)_)?([a-z_]+)")


@dataclass(frozen=True)
class Pattern:
    """A line of [metrics]."""

    theirs: str
    ours: str
    regex: re.Pattern[str]

    @classmethod
    def of(cls, theirs: str, ours: Any) -> Pattern:
        """Checks a line. Raises ConfigError that names it and says what is allowed."""
        where = f"[metrics] {theirs!r} = {ours!r}"
        if not isinstance(ours, str):
            raise ConfigError(f"{where}: expected the name of one of our columns, in quotes.")
        try:
            regex = re.compile(theirs.removeprefix("re:")) if theirs.startswith("re:") else _template(theirs)
        except (re.error, ValueError, KeyError) as error:
            raise ConfigError(f"{where}: the left side cannot be read ({error}); {HOW}") from None
        pattern = cls(theirs, ours, regex)
        asked = {name for _, name, _, _ in Formatter().parse(ours) if name is not None}
        if missing := sorted(asked - set(regex.groupindex)):
            raise ConfigError(f"{where}: the left side does not say {missing[0]!r}; {HOW}")
        examples = {"i": "1", "layer": "0", "tier": "top", "metric": "top_norm"}
        if not pattern.target({name: examples.get(name, "top") for name in regex.groupindex}).known:
            known = f"{', '.join(sorted(OF_STEP))}, expert_{{i}}_ or layer_{{layer}}_expert_{{i}}_ and a metric of them"
            raise ConfigError(f"{where}: no column of ours; they are {known}: `python -m prismatic schema`.")
        return pattern

    def target(self, places: Mapping[str, str]) -> Target:
        """Our column for what the left side found."""
        found = TARGET.fullmatch(self.ours.format_map(places))
        if found is None:
            return Target("")
        layer, expert, metric = found.groups()
        return Target(metric, None if expert is None else int(expert), None if layer is None else int(layer))


HOW = "places are {i}, {layer}, {tier} and {metric}; a regular expression begins with re: and names its groups so"


def _template(text: str) -> re.Pattern[str]:
    """A name with places in it; everything else stands for itself."""
    seen: set[str] = set()
    parts = []
    for literal, name, _, _ in Formatter().parse(text):
        parts.append(re.escape(literal))
        if name is not None:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{PLACES[name]})")
            seen.add(name)
    return re.compile("".join(parts))


@dataclass(frozen=True)
class NameMap:
    """Everything that a map says."""

    patterns: tuple[Pattern, ...]
    step: str | None = None
    experts: tuple[int, ...] | None = None
    roles: tuple[str, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    default: bool = False
    """Whether it is the one for our own names, most of which a run does not have."""

    def target_of(self, name: str) -> tuple[Pattern, Target] | None:
        """The first line that takes this name, and our column; None where none does."""
        for pattern in self.patterns:
            found = pattern.regex.fullmatch(name)
            if found is None:
                continue
            target = pattern.target(found.groupdict())
            if target.expert is not None and self.experts is not None:
                if target.expert not in self.experts:
                    continue
                target = replace(target, expert=self.experts.index(target.expert))
            if target.expert is not None and target.layer is None and target.metric in WHOLE:
                target = replace(target, metric="perturbed_norm" if target.expert else "clean_norm")
            if target.known:
                return pattern, target
        return None

    def options_of(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a run as facts: those of the map, and all others of the tracker's config under `tracker_`.

        The others keep runs apart that are no replicas, and are never taken for an option that the verdict reads.
        Raises ConfigError for an option that the tracker's config does not have.
        """
        theirs = dict(flat(config))
        facts: dict[str, Any] = {}
        for name, value in self.options.items():
            asked = FROM_CONFIG.fullmatch(value) if isinstance(value, str) else None
            if asked and asked[1] not in theirs:
                has = ", ".join(sorted(theirs)[:20]) or "nothing"
                raise ConfigError(f"[options] {name} = {value!r}: the tracker's config has no such name; it has {has}.")
            facts[f"config.{name}"] = theirs.pop(asked[1]) if asked else value
        for name, value in theirs.items():
            facts[f"config.tracker_{re.sub('[^a-z0-9_]+', '_', name.lower())}"[:60]] = value
        return facts


def load_mapping(path: Path | None, overrides: Iterable[str] = ()) -> NameMap:
    """Read a map, with `name=value` laid over its options; without a file, the one for our own names.

    Raises ConfigError for a file that is no TOML, an unknown setting, or a line that cannot be.
    """
    try:
        told = DEFAULT if path is None else tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error}).") from error
    try:
        return parse_mapping(told, overrides)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}" if path else str(error)) from None


def parse_mapping(told: Mapping[str, Any], overrides: Iterable[str] = ()) -> NameMap:
    """Checks what a map says. Raises ConfigError."""
    if unknown := sorted(set(told) - set(SETTINGS)):
        raise ConfigError(f"unknown setting {unknown[0]!r}; the settings are {', '.join(SETTINGS)}.")
    metrics = told.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        raise ConfigError("there is no [metrics], which says which of their names is which of ours.")
    step, mixture = told.get("step"), told.get("mixture")
    if step is not None and not isinstance(step, str):
        raise ConfigError(f"step = {step!r}: expected the name of a metric.")
    if mixture is not None and mixture not in MIXTURES:
        raise ConfigError(f"mixture = {mixture!r}: expected one of {', '.join(MIXTURES)}.")
    experts = _listed(told, "experts", lambda number: type(number) is int and number >= 0, "different numbers from 0")
    if experts is not None and len(set(experts)) < len(experts):
        raise ConfigError(f"experts = {list(experts)!r}: expected different numbers.")
    roles = _listed(told, "roles", lambda role: role in ROLES, f"for each expert one of {', '.join(ROLES)}")
    facts = {"mixture": mixture} if mixture else {}
    for name in ("planned_steps", "warmup_steps"):
        if name in told:
            if type(told[name]) is not int or told[name] < 0:
                raise ConfigError(f"{name} = {told[name]!r}: expected a whole number of steps.")
            facts[name] = told[name]
    return NameMap(
        tuple(Pattern.of(theirs, ours) for theirs, ours in metrics.items()),
        step,
        experts,
        roles,
        facts,
        _options(told.get("options", {}), overrides),
        default=told is DEFAULT,
    )


def _listed(told: Mapping[str, Any], name: str, allowed: Any, what: str) -> tuple[Any, ...] | None:
    values = told.get(name)
    if values is None:
        return None
    if not isinstance(values, list) or not values or not all(map(allowed, values)):
        raise ConfigError(f"{name} = {values!r}: expected a list, {what}.")
    return tuple(values)


def _options(told: Any, overrides: Iterable[str]) -> dict[str, Any]:
    options = dict(told) if isinstance(told, dict) else {"options": told}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected name=value, such as --set seed=1.")
        options[name.strip()] = _literal(value.strip())
    for name, value in options.items():
        if not OPTION.fullmatch(name) or not isinstance(value, str | int | float | bool):
            raise ConfigError(
                f"[options] {name} = {value!r}: expected a name of a-z, 0-9 and _, and a number or a text."
            )
    return options


def _literal(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
