"""The tidy tables of a run: a row per step and expert (`dynamics`), and a summary row per run file (`runs`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from prismatic.contract import schema
from validation.files.run_file import RunFile, arrow_schema
from validation.text import printable

COPIED = ("top_norm", "bottom_norm", "middle_norm", "routing_weight", "bottom_to_middle")
COMPARED = ("divergence", "relative_divergence", "direction")  # comparisons with expert 0, which has none of them

RUNS = pa.schema(
    [(name, pa.string()) for name in ("run", "name", "file", "sha256")]
    + [(name, pa.int64()) for name in ("steps", "first_step", "last_step")]
    + [("experts", pa.int32()), ("seed", pa.int64()), ("perturbation_scale", pa.float64()), ("sparsity", pa.float64())]
    + [("merge", pa.string()), ("routing", pa.string())]
)
DYNAMICS = pa.schema(
    [("run", pa.string()), ("step", pa.int64()), ("expert", pa.int32()), ("role", pa.string())]
    + [(name, pa.float64()) for name in (*COPIED[:3], "norm", *COPIED[3:], *COMPARED, "loss")]
)
STEPS = pa.schema(
    [("run", pa.string()), ("step", pa.int64())]
    + [(column.name, pa.float64()) for column in (*schema.STEP_COLUMNS[1:], *schema.ROUTING_COLUMNS)]
)
PER_STEP = pa.schema([field for field in DYNAMICS if field.name not in ("run", "expert", "role")])
LAYERS = pa.schema([("run", pa.string()), *arrow_schema("layers")])
PAIRS = pa.schema([("run", pa.string()), *arrow_schema("pairs")])
HISTOGRAMS = pa.schema([("run", pa.string()), *arrow_schema("histograms")])

Columns = dict[str, pa.ChunkedArray]
"""The columns of one wide table by name: Arrow's own look-up takes milliseconds at 2000 columns."""


def summary(run: RunFile) -> dict[str, object]:
    """Return the row of `runs`: the length of the run and the options that runs are grouped by."""
    steps, options = run.wide["step"], {**run.facts, **run.config}
    return {
        "run": run.id,
        "name": run.name,
        "file": run.path.name,
        "sha256": run.sha256,
        "steps": len(steps),
        "first_step": steps[0].as_py() if len(steps) else None,
        "last_step": steps[-1].as_py() if len(steps) else None,
        "experts": run.num_experts,
        "seed": _integer(options.get("seed")),
        "perturbation_scale": _real(options.get("perturbation_scale")),
        "sparsity": _real(options.get("sparsity")),
        "merge": _text(options.get("merge")),
        "routing": _text(options.get("routing")),
    }


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def _real(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > sys.float_info.max:
        return None
    return float(value)


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) else None


def tidy(run: RunFile) -> Iterator[pa.Table]:
    """Yield the rows of `dynamics`, one table per expert."""
    for expert, role, rows in by_expert(run):
        keys = {"run": pa.scalar(run.id), "expert": pa.scalar(expert, pa.int32()), "role": pa.scalar(role)}
        columns = {name: pa.repeat(value, len(rows)) for name, value in keys.items()}
        columns |= dict(zip(rows.column_names, rows.columns, strict=True))
        yield pa.table([columns[name] for name in DYNAMICS.names], schema=DYNAMICS)


def of_steps(run: RunFile) -> pa.Table:
    """Return the rows of `steps`: the values of each step that belong to no expert; NULL where the file lacks some."""
    nothing = pa.nulls(len(run.wide), pa.float64())
    held = {"run": pa.repeat(pa.scalar(run.id), len(run.wide)), **_columns(run)}
    return pa.table([held.get(name, nothing) for name in STEPS.names], schema=STEPS)


def by_expert(run: RunFile) -> Iterator[tuple[int, str, pa.Table]]:
    """Yield each expert, its role and its values per step (schema `PER_STEP`); NULL where the file lacks a column."""
    wide, nothing = _columns(run), pa.nulls(len(run.wide), pa.float64())
    for expert, role in expert_roles(run):
        names = (*COPIED, *COMPARED) if expert else COPIED
        found = {name: wide.get(f"expert_{expert}_{name}") for name in names}
        found |= {"step": wide["step"], "norm": _whole_norm(wide, expert), "loss": wide.get("loss")}
        if (
            expert
            and role != schema.PEER
            and (found["divergence"] is None or found["divergence"].null_count == len(run.wide))
        ):
            found["divergence"] = _derived_divergence(wide, expert)
        columns = [found.get(name) for name in PER_STEP.names]
        yield expert, role, pa.table([nothing if column is None else column for column in columns], schema=PER_STEP)


def expert_roles(run: RunFile) -> list[tuple[int, str]]:
    """Return each expert with its role.

    If the file names every expert a peer, all are. Otherwise expert 0 is the clean one, and the file names the roles of
    the others.
    """
    named = dict(zip(run.experts["expert"].to_pylist(), run.experts["role"].to_pylist(), strict=True))
    if run.expert_ids and all(named.get(expert) == schema.PEER for expert in run.expert_ids):
        return [(expert, schema.PEER) for expert in run.expert_ids]
    roles = {expert: role for expert, role in named.items() if expert and role in ("perturbed", "control")}
    return [(expert, roles.get(expert, "perturbed" if expert else "clean")) for expert in run.expert_ids]


def _columns(run: RunFile) -> Columns:
    return dict(zip(run.wide.column_names, run.wide.columns, strict=True))


def _tier_norms(wide: Columns, expert: int) -> dict[str, np.ndarray]:
    """Return the tier norms that the file has of this expert, by tier; NaN is NULL."""
    names = {tier: f"expert_{expert}_{tier}_norm" for tier in schema.TIERS}
    return {tier: wide[name].to_numpy() for tier, name in names.items() if name in wide}


def _whole_norm(wide: Columns, expert: int) -> pa.ChunkedArray | pa.Array | None:
    """Return the norm of the whole gradient as logged, otherwise computed from the three tiers, which partition it."""
    for whole in ("perturbed_norm", "clean_norm") if expert else ("clean_norm", "perturbed_norm"):
        if f"expert_{expert}_{whole}" in wide:
            return wide[f"expert_{expert}_{whole}"]
    tiers = _tier_norms(wide, expert)
    if len(tiers) < len(schema.TIERS):
        return None
    with np.errstate(over="ignore"):  # hypot, not squares: the square of 1e200 is infinite, that norm is not
        return pa.array(np.hypot(np.hypot(tiers["top"], tiers["bottom"]), tiers["middle"]), from_pandas=True)


def _derived_divergence(wide: Columns, expert: int) -> pa.Array | None:
    """Return the mean of |norm_i - norm_0| over the tiers that both experts have, as docs/verdict.md defines it."""
    norms, clean = _tier_norms(wide, expert), _tier_norms(wide, 0)
    shared = [tier for tier in norms if tier in clean]
    if not shared:
        return None
    with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity is NaN, and NULL
        return pa.array(np.mean([np.abs(norms[tier] - clean[tier]) for tier in shared], axis=0), from_pandas=True)
