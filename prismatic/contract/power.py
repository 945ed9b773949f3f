"""Seeds that an effect needs: the power that plans aim at, usual spreads over seeds, and the seeds by both.

docs/sweeps.md explains the numbers, and `python benchmarks/power.py` measures them.
"""

from __future__ import annotations

from collections.abc import Mapping

POWER = 0.8
"""The probability of deciding that a number of seeds is planned for."""
SPREADS = (0.07, 0.10, 0.14, 0.20)
"""Standard deviations over seeds of the effect of a run, as real trainings have them; of a factor, those of its log."""
SEEDS_FOR_POWER: Mapping[float, tuple[int, ...]] = {1.2: (8, 13, 23, 44), 1.3: (6, 6, 8, 14), 1.5: (6, 6, 6, 6)}
"""The seeds that support a true effect with this power, by the effect, for each of SPREADS, at a margin of 1.10x."""
