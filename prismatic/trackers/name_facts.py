"""Options that stand in the names of runs: `--facts 'seed=_s([0-9]+)'` reads the seed of `moe_s3`.

Names come from files of other people. Arrow searches them with RE2, whose time grows with the length of the name alone:
no pattern can make it try a name in exponentially many ways, as Python's own engine would.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prismatic.errors import ConfigError, TrackerError
from prismatic.trackers.tracked import literal

MAX_NAME = 1000  # characters of a name that are searched


@dataclass(frozen=True)
class NameFact:
    """An option, and the regular expression whose one group is its value in a run's name."""

    option: str
    pattern: str

    @classmethod
    def of(cls, option: str, pattern: object) -> NameFact:
        """Return a checked pattern. Raises ConfigError if it is none, or has not exactly one group."""
        where = f"facts: {option}={pattern}"
        if not isinstance(pattern, str):
            raise ConfigError(f"{where}: expected a regular expression, in quotes.")
        try:
            groups = re.compile(pattern).groups
            if groups == 1:
                _search(pattern, "")
        except (re.error, ValueError, OverflowError, RecursionError) as error:
            problem = str(error).removeprefix("Invalid regular expression: ")
            raise ConfigError(f"{where}: this is no regular expression that can be searched for ({problem}).") from None
        if groups != 1:
            raise ConfigError(
                f"{where}: expected a regular expression with one group, as in 'seed=_s([0-9]+)', found {groups} "
                "groups; --set gives an option its value directly."
            )
        return cls(option, pattern)

    def value_in(self, names: Sequence[str]) -> int | float | str:
        """Return what the group matches in the first name that has it, as a number if it is one.

        Raises TrackerError if no name has it.
        """
        for name in names:
            if found := _search(self.pattern, name[:MAX_NAME]):
                return literal(found)
        raise TrackerError(
            f"run {names[0]}: its names do not match {self.option}={self.pattern}; they are {', '.join(names)}."
        )


def parse_name_facts(given: Iterable[str]) -> dict[str, NameFact]:
    """Return the patterns of `--facts NAME=PATTERN` by option. Raises ConfigError."""
    facts = {}
    for text in given:
        option, equals, pattern = text.partition("=")
        if not equals:
            raise ConfigError(f"--facts {text}: expected name=pattern, such as --facts 'seed=_s([0-9]+)'.")
        facts[option.strip()] = NameFact.of(option.strip(), pattern)
    return facts


def _search(pattern: str, name: str) -> str:
    """Return what the pattern's group matches where the pattern first matches; an empty text if it does not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.scalar(name, pa.string())
    whole = f"(?s)^.*?(?:{pattern}).*$"
    if not pc.match_substring_regex(text, whole).as_py():
        return ""
    found: str = pc.replace_substring_regex(text, pattern=whole, replacement=r"\1", max_replacements=1).as_py()
    return found
