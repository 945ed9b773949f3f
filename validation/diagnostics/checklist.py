"""The checklist of the Diagnostics page: the title and result of every check (found, passed, not checked) by theme."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from prismatic.contract.thresholds import Thresholds
from validation.analysis.run import Run
from validation.diagnostics.finding import Finding, logged_norms
from validation.text import pluralize

PASSED, UNCHECKED = "passed", "not checked"
Describe = Callable[[Run, Thresholds], str | None]
"""Returns the numbers of the run that a passed check used; None if the file lacks the data."""


@dataclass(frozen=True)
class Checked:
    """A line of the checklist. result: passed, not checked, or a severity. seen: the numbers that decided it."""

    title: str
    result: str
    seen: str


def checklist(run: Run, findings: Sequence[Finding], thresholds: Thresholds) -> dict[str, list[Checked]]:
    """Return the line of every check, by theme."""
    return {
        theme: [
            _checked(name, OF_PEERS.get(name, title) if run.peers else title, describe, run, findings, thresholds)
            for name, (title, describe) in checks.items()
            if not (run.peers and name in OF_PERTURBATIONS)
        ]
        for theme, checks in CHECKED.items()
    }


def troubleshooting(run: Run, findings: Sequence[Finding], thresholds: Thresholds) -> list[Checked]:
    """Return a line for each symptom of the documentation's troubleshooting."""
    describers = {name: (title, describe) for checks in CHECKED.values() for name, (title, describe) in checks.items()}
    lines = []
    for symptom, names in DOCUMENTED.items():
        parts = [_checked(name, *describers[name], run, findings, thresholds) for name in names]
        worst = next((part for part in parts if part.result not in (PASSED, UNCHECKED)), parts[0])
        lines.append(Checked(symptom, worst.result, worst.seen))
    return lines


def _checked(
    name: str, title: str, describe: Describe, run: Run, findings: Iterable[Finding], thresholds: Thresholds
) -> Checked:
    found = [finding for finding in findings if finding.id == name]
    if found:  # the gravest comes first
        more = f", and {pluralize(len(found) - 1, 'more finding')}" if len(found) > 1 else ""
        return Checked(title, found[0].severity, f"{found[0].symptom}{more}")
    if name in IMPLIED and any(finding.id == IMPLIED[name] for finding in findings):
        return Checked(title, UNCHECKED, "gradients are zero")
    if not len(run.steps) and name not in ("no_data", "wal_missing", "damaged"):
        return Checked(title, UNCHECKED, "the file has no rows")
    seen = describe(run, thresholds)
    return Checked(title, UNCHECKED if seen is None else PASSED, seen or "the file lacks the data")


def _rows(run: Run, thresholds: Thresholds) -> str:
    return f"{pluralize(len(run.steps), 'logged step')}, {run.steps[0]:,} to {run.steps[-1]:,}"


def _whole(run: Run, thresholds: Thresholds) -> str:
    return "the file is not in WAL mode, so it holds all of its rows"


def _undamaged(run: Run, thresholds: Thresholds) -> str:
    return "every table can be read, and is as recorded if the file has checksums"


def _experts(run: Run, thresholds: Thresholds) -> str:
    planned, there = run.planned_experts, len(run.experts)
    # Fewer in the config are no fault: it may not count the controls.
    return f"{pluralize(there, 'expert')} in the file" + (f", {planned:,} in the config" if planned >= there else "")


def _columns(run: Run, thresholds: Thresholds) -> str:
    return f"top, bottom and middle norms of {pluralize(len(run.experts), 'expert')}"


def _widest(run: Run, thresholds: Thresholds) -> str | None:
    if len(run.steps) < 3:
        return None
    widest = float(np.diff(run.steps.astype(float)).max())
    all_steps = float(run.steps[-1]) - float(run.steps[0])
    return f"at most {pluralize(round(widest), 'step')} between two rows, of {all_steps:,.0f}"


def _grid(run: Run, thresholds: Thresholds) -> str | None:
    return None if run.every is None else f"a row every {pluralize(run.every, 'step')}, as declared"


def _clock(run: Run, thresholds: Thresholds) -> str | None:
    wall_time = run.step_column("wall_time")
    known = wall_time[np.isfinite(wall_time)]
    return f"measured within {known.max() - known.min():,.0f} s, in order" if len(known) else None


def _probes(run: Run, thresholds: Thresholds) -> str | None:
    if run.isolated is not None:
        return f"{pluralize(len(run.isolated.steps), 'row')} of isolated gradients"
    return None if run.probe_freq is None else "no probe was planned, or none is due yet"


def _layers(run: Run, thresholds: Thresholds) -> str | None:
    layers = (run.isolated or run).layers
    return f"{pluralize(len(layers), 'layer')} in the file" if layers else None


def _all_layers(run: Run, thresholds: Thresholds) -> str | None:
    return _layers(run, thresholds) if run.number("routers") else None


def _planned(run: Run, thresholds: Thresholds) -> str:
    return f"{run.planned_steps:,} steps were planned"


def _binned(run: Run, thresholds: Thresholds) -> str:
    rows_K = (run.isolated or run).plan(thresholds.warmup).rows_K
    return f"at least {pluralize(int(rows_K.min()), 'planned row')} in each of {len(rows_K)} bins of time"


def _end(run: Run, thresholds: Thresholds) -> str | None:
    return None if run.number("planned_steps") is None else f"{run.planned_steps:,} steps were planned and trained"


def _smallest(run: Run, thresholds: Thresholds) -> str:
    norms = np.concatenate([logged_norms(run, expert).ravel() for expert in run.experts])
    found = norms[np.isfinite(norms)]
    return f"norms from {found.min():.3g} to {found.max():.3g} (loss / weight)" if len(found) else "no norm is zero"


def _values(run: Run, thresholds: Thresholds) -> str:
    return f"{sum(logged_norms(run, expert).size for expert in run.experts):,} norms"


def _tensors(run: Run, thresholds: Thresholds) -> str | None:
    return "none was missing in any row" if np.isfinite(run.step_column("missing_gradients")).any() else None


def _events(run: Run, thresholds: Thresholds) -> str | None:
    """Return the number of events; only our logger records them, and it always writes facts as well."""
    return f"{pluralize(sum(run.events.values()), 'event')} recorded, none of this kind" if run.facts else None


def _changed(run: Run, thresholds: Thresholds) -> str:
    shares = [np.mean([by["top"], by["bottom"]]) for expert, by in run.changed.items() if expert in run.experts]
    shares = [share for share in shares if share > 0]
    if run.peers:
        return "their norms differ"
    if run.is_sham:
        return "a sham run, in which nothing was perturbed on purpose"
    return f"{min(shares):.0%} of their top and bottom weights were changed" if shares else "their norms differ"


def _shares(run: Run, thresholds: Thresholds) -> str | None:
    last = max(1, len(run.steps) // 5)
    ends = {index: expert["routing_weight"][-last:] for index, expert in run.experts.items()}
    means = {index: float(np.nanmean(values)) for index, values in ends.items() if np.isfinite(values).any()}
    if not means:
        return None
    largest = max(means, key=lambda expert: means[expert])
    return f"the largest share at the end is {means[largest]:.0%}, of expert {largest}"


def _routed(run: Run, thresholds: Thresholds) -> str | None:
    routing = run.config.get("routing")
    return f"the routing is {routing}" if routing in ("trained", "frozen") else None


def _controls(run: Run, thresholds: Thresholds) -> str | None:
    controls = run.of_role("control")
    return f"{pluralize(len(controls), 'control expert')}, unlike the others and with tokens" if controls else None


def _facts(run: Run, thresholds: Thresholds) -> str | None:
    return "run_hash is the hash of the options and the text" if run.reproducible else None


def _parallel(run: Run, thresholds: Thresholds) -> str:
    return "the tiers differ by more than one common factor"


def _scores(run: Run, thresholds: Thresholds) -> str | None:
    logged = [e["divergence"] for e in run.of_role("perturbed")]
    means = [float(np.nanmean(values)) for values in logged if np.isfinite(values).any()]
    if not means:
        return None
    return f"mean score {means[0]:.3g}, more than a factor of ten from {thresholds.divergence_supported:g}"


def _gain(run: Run, thresholds: Thresholds) -> str | None:
    return "positive_control is 1" if run.option("positive_control") is not None else None


CHECKED: dict[str, dict[str, tuple[str, Describe]]] = {
    "Rows": {
        "no_data": ("Steps were logged", _rows),
        "wal_missing": ("No rows were left in a -wal file", _whole),
        "damaged": ("The file is undamaged", _undamaged),
        "missing_experts": ("Every expert was logged", _experts),
        "missing_columns": ("Every expert has all three tiers", _columns),
        "step_gaps": ("No long stretch of training without a row", _widest),
        "off_grid": ("Rows lie at the declared steps", _grid),
        "wall_time_falls": ("Rows are in the order of their measurement", _clock),
        "duplicate_steps": ("No step was logged twice", lambda run, thresholds: "each step has one row"),
        "missing_probe": ("The planned isolated gradients are there", _probes),
        "missing_layers": ("No layer is missing", _all_layers),
        "incomplete_layers": ("Every layer has every expert", _layers),
        "means_only": ("Each layer was logged", _layers),
        "no_plan": ("The planned length was declared", _planned),
        "too_short": ("Enough planned rows for the bins of time", _binned),
        "unfinished": ("The run reached its planned end", _end),
    },
    "Gradients": {
        "zero_norms": ("Gradients were there when they were measured", _smallest),
        "zero_tier": ("No tier's gradient is exactly zero", _values),
        "tiers_disagree": ("An expert's numbers agree with its tier norms", _values),
        "constant_rows": ("Norms change from row to row", _values),
        "nonfinite": ("No norm is NaN, infinite or missing", _values),
        "missing_values": ("No column of a layer has holes", _layers),
        "missing_gradients": ("Every trained parameter had a gradient", _tensors),
        "rows_lost": ("No logged step was lost", _events),
        "logging_order": ("Logged at the right place of the training loop", _events),
    },
    "Experiment": {
        "facts_disagree": ("The facts of the file agree with each other", _facts),
        "identical_experts": ("Perturbed experts differ from the clean one", _changed),
        "not_a_control": ("Control experts are controls", _controls),
        "constant_shares": ("The shares of a trained router change", _routed),
        "router_collapse": ("The router uses more than one expert", _shares),
        "collinear_gradients": ("Gradients of the experts can differ in more than size", _parallel),
        "scale_dependent_threshold": ("The documented score does not depend on the scale of the loss", _scores),
        "positive_control": ("No effect was put in by hand", _gain),
    },
}

OF_PERTURBATIONS = {"not_a_control", "scale_dependent_threshold", "positive_control"}
"""Checks that say nothing about peers."""
OF_PEERS = {"identical_experts": "No two experts are the same"}
"""Titles of checks of peers."""

IMPLIED = dict.fromkeys(
    ("zero_tier", "tiers_disagree", "constant_rows", "identical_experts", "collinear_gradients"), "zero_norms"
)
"""Checks that are skipped after a finding of another check."""

# The headings of the documentation's troubleshooting, and the checks for each, the most likely one first.
DOCUMENTED = {
    "“No data” message in the Dynamics tab": ("no_data", "wal_missing"),
    "Missing experts in the chart": ("missing_experts", "missing_columns"),
    "All gradient norms are zero": ("zero_norms", "logging_order", "missing_gradients"),
}
