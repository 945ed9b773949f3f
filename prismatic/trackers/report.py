"""The report on an imported run: what was found, what is missing, and what was assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from prismatic.contract.schema import GRADIENT, PEER, TIERS
from prismatic.trackers.mapping import NameMap, Target
from prismatic.trackers.tracked import MAX_OPTIONS, TrackedRun, flatten, last_part

TIER_NORMS = tuple(f"{tier}_norm" for tier in TIERS)
NAMES_SHOWN, NOTES_SHOWN = 8, 20
CLIPPING = {
    "before": "the map says that norms were logged before clipping",
    "after": "the map says that norms were logged after clipping: they are norms of clipped gradients",
    "unknown": "norms that were logged after clipping are norms of clipped gradients; clip_state in the map can say so",
}


@dataclass
class Report:
    """The result of importing one run: imported, unmapped and unused names, skipped steps."""

    run: str
    tracker: str
    steps: tuple[int, ...] = ()
    experts: int = 0
    imported: dict[str, list[str]] = field(default_factory=dict)
    """For each line of the map, the names that it matched."""
    unmapped: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    """Lines of the map that matched no name."""
    skipped: int = 0
    """The number of steps without any metric of an expert."""
    notes: list[str] = field(default_factory=list)
    tracker_options: dict[str, Any] = field(default_factory=dict)
    """The options that the tracker's config has besides those of the map; they keep experiments apart."""

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = [f"{self.tracker} run {self.run}: {len(self.steps):,} steps with {self.experts} experts"]
        lines += [f"  {line}: {shorten(names)}" for line, names in self.imported.items()]
        lines += [f"  matches nothing: {line}" for line in self.unused]
        lines += [f"  not mapped: {shorten(self.unmapped)}"] if self.unmapped else []
        lines += [f"  skipped: {self.skipped:,} steps without any metric of an expert"] if self.skipped else []
        notes = Counter(self.notes)
        for note, times in islice(notes.items(), NOTES_SHOWN):
            lines.append(f"  note: {note}" + (f" ({times} times)" if times > 1 else ""))
        return lines + ([f"  and {len(notes) - NOTES_SHOWN:,} more notes"] if len(notes) > NOTES_SHOWN else [])


def shorten(names: Sequence[str]) -> str:
    """Return the first of these names, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def missing_and_assumed(
    run: TrackedRun, mapping: NameMap, columns: Mapping[Target, str], facts: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what a reader of the imported run must know: units, clipping, what is missing and what was assumed."""
    yield f"norms count as L2 norms in {GRADIENT}, and all values are as they were logged"
    yield CLIPPING[facts["clip_state"]]
    if not any(target.metric in TIER_NORMS for target in columns):
        yield "there are only norms of whole experts: claims that compare tiers cannot be judged"
    if mapping.roles is None:
        peers = f'roles = ["{PEER}", ...] says that none is'
        yield f"the map gives no roles: expert 0 counts as clean, all others as perturbed; {peers}"
    given = {name.removeprefix("config."): value for name, value in facts.items()}
    tracked = list(islice(flatten(run.config), MAX_OPTIONS + 1))
    for name, value in tracked:
        option = last_part(name)
        if given.get(option, value) != value:
            yield f"the tracker's config says {name} = {value!r}, and {option} = {given[option]!r} counts"
    if len(tracked) > MAX_OPTIONS:
        yield f"only the first {MAX_OPTIONS:,} options of the tracker's config were kept"
    if "seed" not in given:
        source = next((f"{{{name}}}" for name, _ in tracked if last_part(name) == "seed"), "1")
        give = f"--set 'seed={source}' or --facts 'seed=_s([0-9]+)'"
        yield f"no seed is known, by which runs become replicates; {give} gives it"
