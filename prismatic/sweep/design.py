"""The lines that a sweep prints before training: its runs by role, and how many seeds decide what.

docs/sweeps.md explains the numbers. They are for a comparison with Student's t interval over seeds at alpha 0.05 and a
margin of 1.10x.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from prismatic.contract.study import as_ranges
from prismatic.contract.thresholds import SHAM_SCALE, Thresholds
from prismatic.sweep.plan import FEWEST_SEEDS, Job, Sweep

ENOUGH_CONTROLS = int(Thresholds().min_experts)
"""The standard deviation of an effect over seeds is then 0.82 of that with one control expert."""
SPREADS = (0.07, 0.10, 0.14, 0.20)
SEEDS_FOR_POWER: Mapping[float, tuple[int, ...]] = {1.2: (8, 13, 23, 44), 1.3: (6, 6, 8, 14), 1.5: (6, 6, 6, 6)}
"""The seeds that support a true effect with 80 % power, by the effect, for each of SPREADS: the standard deviation of
the log effect of a run over seeds."""
TREATED, SHAM, POSITIVE = "treated run", "sham run", "positive control"


def design_lines(sweep: Sweep) -> list[str]:
    """Return the lines about a sweep: its runs by role and its seeds; for treated runs, also what these can decide."""
    roles, seeds = Counter(map(_role, sweep.jobs)), sweep.study.seeds
    lines = [f"{', '.join(_pluralize(count, role) for role, count in roles.items())}; seeds {as_ranges(seeds)}"]
    if TREATED not in roles:
        return lines
    needed = "; ".join(f"{effect}x: {' / '.join(map(str, row))}" for effect, row in SEEDS_FOR_POWER.items())
    spreads = " / ".join(f"{spread:.2f}" for spread in SPREADS)
    lines += [
        f"seeds that support an effect with 80 % power, if it varies by {spreads} (log sd) over seeds: {needed}",
        "to refute divergence takes many more: about 22 to 48 seeds with sham runs, more than 100 without",
    ]
    if len(seeds) < FEWEST_SEEDS:
        count = _pluralize(len(seeds), "seed")
        lines.append(f"{count}: fewer than six decide nothing over seeds; --grid seed=0..5 trains six")
    controls = min(job.config.control_experts for job in sweep.jobs)
    if controls < ENOUGH_CONTROLS:
        lines.append(f"fewer than three control experts ({controls}): effects vary more; --set control_experts=3")
    return lines


def _role(job: Job) -> str:
    if job.config.perturbation_scale <= SHAM_SCALE:
        return SHAM
    return TREATED if job.config.positive_control == 1.0 else POSITIVE


def _pluralize(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "s")
