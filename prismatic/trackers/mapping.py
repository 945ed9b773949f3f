"""The map of an import: a TOML file that translates a tracker's metric names to our columns.

step = "trainer/global_step"        # the metric that counts steps, if the tracker's own counter is different
experts = [1, 2, 3]                 # the tracker's expert numbers, the clean expert first; default: unchanged
roles = ["clean", "perturbed", "control"]
mixture = "top_k"
planned_steps = 2000
clip_state = "after"                # whether the norms were logged before or after the gradients were clipped
ignore = ["output_dir"]             # options of the tracker's config that say nothing about the experiment

[metrics]                           # the tracker's name = our column
"moe/expert_{i}/{tier}_grad" = "expert_{i}_{tier}_norm"
"re:block(?P<layer>[0-9]+)[.]e(?P<i>[0-9]+)[.]cos" = "layer_{layer}_expert_{i}_gradient_cosine"
"train/loss" = "loss"

[options]                           # the options that group runs into replicates and experiments
seed = "{train.seed}"               # from the tracker's config
perturbation_scale = 1.0

[facts]                             # options that stand in the runs' names
data_seed = "_d([0-9]+)"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import Any

from prismatic.contract.options import FREE
from prismatic.contract.schema import LAYERS_COLUMNS, METRICS, MIXTURES, PEER, ROLES, STEP_COLUMNS, TIERS
from prismatic.errors import ConfigError
from prismatic.trackers.name_facts import NameFact, parse_name_facts
from prismatic.trackers.tracked import MAX_OPTIONS, TrackedRun, flatten, last_part, literal

EXPERT_METRICS = {metric.name for metric in METRICS} | {"norm"}
GRADIENT_NORMS = ("norm", "clean_norm", "perturbed_norm")  # the same quantity; our name depends on the expert
SCORES = ("divergence", "relative_divergence", "direction")  # relative to expert 0, which therefore has none
LAYER_METRICS = {column.name for column in LAYERS_COLUMNS} - {"step", "layer", "expert", "source"}
STEP_METRICS = {column.name for column in STEP_COLUMNS} - {"step", "nan_values", "wall_time"}
PLACEHOLDERS = {
    "i": "[0-9]{1,4}",
    "layer": "[0-9]{1,4}",
    "tier": "|".join(TIERS),
    "metric": "|".join(sorted(EXPERT_METRICS | LAYER_METRICS, key=len, reverse=True)),
}
PLACEHOLDER_HELP = (
    "placeholders are {i}, {layer}, {tier} and {metric}; a regular expression begins with re: and has named groups"
)
OPTION = re.compile(r"[a-z][a-z0-9_]{0,60}")
FROM_CONFIG = re.compile(r"\{(.+)\}")
COLUMN = re.compile(r"(?:(?:layer_([0-9]+)_)?expert_([0-9]+)_)?([a-z_]+)")
CLIP_STATES = ("before", "after")
SETTINGS = (
    *("step", "experts", "roles", "mixture", "planned_steps", "warmup_steps", "clip_state", "ignore"),
    *("metrics", "options", "facts"),
)
DEFAULT = {  # the names that our own mirror writes, and the columns' own names
    "metrics": {
        f"{prefix}{name}": name
        for prefix in ("prismatic/", "")
        for name in ("expert_{i}_{metric}", "layer_{layer}_expert_{i}_{metric}", *sorted(STEP_METRICS))
    }
}


@dataclass(frozen=True)
class Target:
    """A column of ours: of a step, of an expert, or of an expert in a layer."""

    metric: str
    expert: int | None = None
    layer: int | None = None

    @property
    def exists(self) -> bool:
        """True if a run file has such a column."""
        if self.expert is None:
            return self.metric in STEP_METRICS
        if self.layer is not None:
            return self.metric in LAYER_METRICS
        return self.metric in EXPERT_METRICS and (self.expert > 0 or self.metric not in SCORES)

    def __str__(self) -> str:
        layer = "" if self.layer is None else f"layer_{self.layer}_"
        return self.metric if self.expert is None else f"{layer}expert_{self.expert}_{self.metric}"


@dataclass(frozen=True)
class Pattern:
    """A line of [metrics]: a pattern of the tracker's names, and a template of our column."""

    names: str
    column: str
    regex: re.Pattern[str]

    @classmethod
    def of(cls, names: str, column: Any) -> Pattern:
        """Return a checked line. Raises ConfigError with the line and what is allowed."""
        where = f"[metrics] {names!r} = {column!r}"
        if not isinstance(column, str):
            raise ConfigError(f"{where}: expected the name of one of our columns, in quotes.")
        try:
            regex = re.compile(names.removeprefix("re:")) if names.startswith("re:") else _template(names)
        except (re.error, ValueError, KeyError) as error:
            raise ConfigError(f"{where}: the left side cannot be read ({error}); {PLACEHOLDER_HELP}.") from None
        pattern = cls(names, column, regex)
        used = {name for _, name, _, _ in Formatter().parse(column) if name is not None}
        if missing := sorted(used - set(regex.groupindex)):
            raise ConfigError(f"{where}: the left side lacks {{{missing[0]}}}; {PLACEHOLDER_HELP}.")
        examples = {"i": "1", "layer": "0", "tier": "top", "metric": "top_norm"}
        if not pattern.target({name: examples.get(name, "top") for name in regex.groupindex}).exists:
            columns = f"{', '.join(sorted(STEP_METRICS))}, expert_{{i}}_METRIC and layer_{{layer}}_expert_{{i}}_METRIC"
            raise ConfigError(f"{where}: not one of our columns: {columns}. `prismatic schema` lists them.")
        return pattern

    def target(self, groups: Mapping[str, str]) -> Target:
        """Return our column for the groups that matched on the left side."""
        match = COLUMN.fullmatch(self.column.format_map(groups))
        if match is None:
            return Target("")
        layer, expert, metric = match.groups()
        return Target(metric, None if expert is None else int(expert), None if layer is None else int(layer))


def _template(text: str) -> re.Pattern[str]:
    """Return a regular expression for a name with placeholders; all other text is literal."""
    seen: set[str] = set()
    parts = []
    for before, name, _, _ in Formatter().parse(text):
        parts.append(re.escape(before))
        if name is not None:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{PLACEHOLDERS[name]})")
            seen.add(name)
    return re.compile("".join(parts))


@dataclass(frozen=True)
class NameMap:
    """The checked contents of a map."""

    patterns: tuple[Pattern, ...]
    step: str | None = None
    experts: tuple[int, ...] | None = None
    roles: tuple[str, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    name_facts: Mapping[str, NameFact] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    """Names of the tracker's config that are not options; `*` stands for any text."""
    default: bool = False
    """True for the built-in map of our own names, most of which a run does not have."""

    def target_of(self, name: str) -> tuple[Pattern, Target] | None:
        """Return the first line that matches this name, and our column; None if no line matches."""
        for pattern in self.patterns:
            match = pattern.regex.fullmatch(name)
            if match is None:
                continue
            target = pattern.target(match.groupdict())
            if target.expert is not None and self.experts is not None:
                if target.expert not in self.experts:
                    continue
                target = replace(target, expert=self.experts.index(target.expert))
            if target.expert is not None and target.layer is None and target.metric in GRADIENT_NORMS:
                target = replace(target, metric="perturbed_norm" if target.expert else "clean_norm")
            if target.exists:
                return pattern, target
        return None

    def options_of(self, run: TrackedRun) -> dict[str, Any]:
        """Return the options of a run as facts: those of the map, and the rest of the tracker's config as `tracker_*`.

        The rest keeps different experiments apart, and the prefix keeps the verdict from reading it as our options.
        Raises ConfigError for an option that the tracker's config does not have, TrackerError for one that the run's
        names do not have.
        """
        tracked = dict(islice(flatten(run.config), MAX_OPTIONS))
        options = {f"config.{name}": fact.value_in(run.names) for name, fact in self.name_facts.items()}
        given = {name: value for name, value in self.options.items() if name not in self.name_facts}
        for name, value in given.items():
            source = FROM_CONFIG.fullmatch(value) if isinstance(value, str) else None
            if source and source[1] not in tracked:
                has = ", ".join(sorted(tracked)[:20]) or "nothing"
                raise ConfigError(f"[options] {name} = {value!r}: the tracker's config has no such name; it has {has}.")
            options[f"config.{name}"] = tracked[source[1]] if source else value
        used = {source[1] for value in given.values() if (source := FROM_CONFIG.fullmatch(str(value)))}
        rest = {name: value for name, value in tracked.items() if name not in used}
        return options | self._kept(rest, has_seed="config.seed" in options)

    def _kept(self, tracked: Mapping[str, Any], *, has_seed: bool) -> dict[str, Any]:
        """Return the rest of a tracker's config. What replicas may differ in becomes a fact that is no option."""
        kept = {}
        for name, value in tracked.items():
            plain = re.sub("[^a-z0-9_]+", "_", name.lower())
            if any(fnmatchcase(each, pattern) for each in (name, plain) for pattern in self.ignored):
                continue
            last = last_part(name)
            free = last in FREE and (last != "seed" or has_seed)
            kept[("" if free else "config.") + f"tracker_{plain}"[:53]] = value
        return kept


def load_mapping(
    path: Path | None, overrides: Sequence[str] = (), facts: Sequence[str] = (), ignored: Sequence[str] = ()
) -> NameMap:
    """Read a map and override its options by `name=value`, or by `name=pattern` for the names of runs.

    Without a file, the map is that of our own names. Raises ConfigError for a file that is not TOML, an unknown
    setting, or an invalid line.
    """
    try:
        settings = DEFAULT if path is None else tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error}).") from error
    try:
        mapping = parse_mapping(settings, overrides)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}" if path else str(error)) from None
    from_names = parse_name_facts(facts)
    if both := sorted({text.partition("=")[0].strip() for text in overrides} & set(from_names)):
        raise ConfigError(f"--set and --facts both give {both[0]}; give only one of them.")
    return replace(
        mapping,
        name_facts=_named({**mapping.name_facts, **from_names}),
        ignored=(*mapping.ignored, *ignored),
    )


def parse_mapping(settings: Mapping[str, Any], overrides: Iterable[str] = ()) -> NameMap:
    """Check the contents of a map. Raises ConfigError."""
    if unknown := sorted(set(settings) - set(SETTINGS)):
        raise ConfigError(f"unknown setting {unknown[0]!r}; the settings are {', '.join(SETTINGS)}.")
    metrics = settings.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        raise ConfigError("there is no [metrics], which maps the tracker's names to our columns.")
    step, mixture = settings.get("step"), settings.get("mixture")
    if step is not None and not isinstance(step, str):
        raise ConfigError(f"step = {step!r}: expected the name of a metric.")
    if mixture is not None and mixture not in MIXTURES:
        raise ConfigError(f"mixture = {mixture!r}: expected one of {', '.join(MIXTURES)}.")
    experts = _listed(
        settings, "experts", lambda number: type(number) is int and number >= 0, "different numbers from 0"
    )
    if experts is not None and len(set(experts)) < len(experts):
        raise ConfigError(f"experts = {list(experts)!r}: expected different numbers.")
    allowed = (*ROLES, PEER)
    roles = _listed(settings, "roles", lambda role: role in allowed, f"for each expert one of {', '.join(allowed)}")
    ignored = _listed(settings, "ignore", lambda name: isinstance(name, str), "names of the tracker's config")
    facts = {"mixture": mixture} if mixture else {}
    if "clip_state" in settings:
        if settings["clip_state"] not in CLIP_STATES:
            raise ConfigError(f"clip_state = {settings['clip_state']!r}: expected one of {', '.join(CLIP_STATES)}.")
        facts["clip_state"] = settings["clip_state"]
    for name in ("planned_steps", "warmup_steps"):
        if name in settings:
            if type(settings[name]) is not int or settings[name] < 0:
                raise ConfigError(f"{name} = {settings[name]!r}: expected a whole number of steps.")
            facts[name] = settings[name]
    return NameMap(
        tuple(Pattern.of(names, column) for names, column in metrics.items()),
        step,
        experts,
        roles,
        facts,
        _options(settings.get("options", {}), overrides),
        _name_facts(settings.get("facts", {})),
        ignored or (),
        default=settings is DEFAULT,
    )


def _listed(
    settings: Mapping[str, Any], name: str, allowed: Callable[[Any], bool], expected: str
) -> tuple[Any, ...] | None:
    values = settings.get(name)
    if values is None:
        return None
    if not isinstance(values, list) or not values or not all(map(allowed, values)):
        raise ConfigError(f"{name} = {values!r}: expected a list, {expected}.")
    return tuple(values)


def _name_facts(given: Any) -> dict[str, NameFact]:
    if not isinstance(given, dict):
        raise ConfigError(f"facts = {given!r}: expected a table of patterns, [facts].")
    return _named({name: NameFact.of(name, pattern) for name, pattern in given.items()})


def _named(facts: dict[str, NameFact]) -> dict[str, NameFact]:
    """Return the facts, whose names must be those of options. Raises ConfigError."""
    for name in facts:
        if not OPTION.fullmatch(name):
            raise ConfigError(f"facts: {name}: expected a name of a-z, 0-9 and _ for the option.")
    return facts


def _options(given: Any, overrides: Iterable[str]) -> dict[str, Any]:
    options = dict(given) if isinstance(given, dict) else {"options": given}
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: expected name=value, such as --set seed=1.")
        options[name.strip()] = literal(value.strip())
    for name, value in options.items():
        if not OPTION.fullmatch(name) or not isinstance(value, str | int | float | bool):
            raise ConfigError(
                f"[options] {name} = {value!r}: expected a name of a-z, 0-9 and _, and a number or a text."
            )
    return options
