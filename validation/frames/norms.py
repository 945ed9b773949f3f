"""The norms chart in words: what its vertical axis shows, and in one sentence how much of a difference is the router's.

The page and the report print the same sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prismatic.contract.schema import PEER
from validation.analysis.run import Run
from validation.frames.beyond_routing import RatioToClean, can_divide, has_norms, ratios_to_clean

AS_LOGGED, BEYOND_ROUTING = "As logged", "Beyond routing"
NORM = "Gradient norm (loss / weight)"
TITLES = {
    AS_LOGGED: "Gradient norm as logged (loss / weight)",
    BEYOND_ROUTING: "Norm divided by routing share (loss / weight)",
}
AGREE = 0.01  # the largest distance from a ratio of 1 at which lines are said to fall on each other
LEAST_SHOWN = 0.001  # smaller distances are rounding errors of the file's numbers
EXPERTS_DRAWN = 4  # of many experts: more lines cannot be told apart
PEERS_DRAWN = 8  # which have one line and one colour each


def experts_drawn(run: Run) -> list[int]:
    """Return the experts to draw at first: all, or of many the first few and a control expert."""
    if run.peers:
        return [*run.experts][:PEERS_DRAWN]
    if len(run.experts) <= EXPERTS_DRAWN:
        return list(run.experts)
    controls = [expert.index for expert in run.of_role("control")][:1]
    first = [expert for expert in run.experts if expert not in controls]
    return sorted(first[: EXPERTS_DRAWN - len(controls)] + controls)


def norms_title(run: Run, norms: str) -> str:
    """Return the title of the vertical axis: how the norms are shown, if there is a choice."""
    return TITLES[norms] if can_divide(run) else NORM


def norms_sentence(run: Run, experts: Sequence[int], norms: str, *, warmup: float) -> str:
    """Return one sentence about the norms of these experts, with the measured factors. norms: AS_LOGGED or other."""
    if run.source == "isolated":
        return "These are gradients of each expert alone on the same batch, so the router has no part in them."
    if not run.merges_parameters:
        return "Each expert has its own tokens or its own training, so its norms are not divided by a routing share."
    if not has_norms(run):
        return "No norm is above zero."
    if not can_divide(run):
        return "This run did not log its routing shares, so the norms cannot be divided by them."
    found = ratios_to_clean(run, experts, warmup=warmup)
    found = {e: ratio for e, ratio in found.items() if math.isfinite(ratio.logged) and math.isfinite(ratio.beyond)}
    if not found:
        return "There is no other expert to compare with expert 0."
    return _as_logged(run, found) if norms == AS_LOGGED else _beyond(run, found)


def _as_logged(run: Run, found: Mapping[int, RatioToClean]) -> str:
    beyond = " and ".join(text for text, _ in _by_role(run, found, "beyond"))
    return f"As logged, {_of_expert_0(run, found, 'logged')}; divided by their routing shares, {beyond}."


def _beyond(run: Run, found: Mapping[int, RatioToClean]) -> str:
    farthest = max(ratio.farthest for ratio in found.values())
    if farthest <= AGREE:
        lines = f"the lines of {_experts([0, *found])} agree within {_percent(farthest)}"
        if all(abs(math.log(ratio.logged)) <= AGREE for ratio in found.values()):
            return f"As logged and divided by routing shares, {lines}."
        return f"Divided by each expert's routing share, {lines}: the router makes the difference."
    logged = " and ".join(text for text, _ in _by_role(run, found, "logged"))
    return f"Divided by each expert's routing share, {_of_expert_0(run, found, 'beyond')}; as logged, {logged}."


def _of_expert_0(run: Run, found: Mapping[int, RatioToClean], part: str) -> str:
    """Return the ratios with the experts that have them."""
    first, *others = _by_role(run, found, part)
    rest = "".join(f" and {text} in {experts}" for text, experts in others)
    return f"bottom norms are {first[0]} expert 0's in {first[1]}{rest}"


def _by_role(run: Run, found: Mapping[int, RatioToClean], part: str) -> list[tuple[str, str]]:
    """Return the smallest to the largest ratio of each role, and the experts of that role, in words."""
    words = []
    for role in ("perturbed", "control", PEER):
        experts = [e for e in found if run.experts[e].role == role]
        if experts:
            values = [getattr(found[e], part) for e in experts]
            ends = dict.fromkeys(_factor(value) for value in (min(values), max(values)))
            several = "the other experts" if role == PEER else f"{role} experts"
            one = f"expert {experts[0]}" if role == PEER else f"{role} expert {experts[0]}"
            words.append((" to ".join(ends), several if len(experts) > 1 else one))
    return words


def _factor(value: float) -> str:
    return f"{value:.2f}×" if 0.1 <= value < 10 else f"{value:.3g}×"


def _experts(numbers: Sequence[int]) -> str:
    *first, last = (str(number) for number in numbers)
    return f"experts {', '.join(first)} and {last}"


def _percent(distance: float) -> str:
    """Return the distance as a percentage, rounded up."""
    return f"{math.ceil(1000 * max(distance, LEAST_SHOWN)) / 10:g} %"
