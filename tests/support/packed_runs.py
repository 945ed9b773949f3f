"""Runs of many experts as the logger stores them, and the same runs unpacked by a second, slow implementation."""

from __future__ import annotations

import math
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from prismatic.contract import schema
from prismatic.measure.metrics import ExpertDynamics, PairDynamics, add_isolated, aggregate
from prismatic.runfile.logger import DynamicsLogger

TIERS = {"top_norm": 0.2, "bottom_norm": 0.2, "middle_norm": 0.9}
HIDDEN = {"clean_norm": "norm", "perturbed_norm": "norm", "direction": "gradient_cosine"}


def log_packed(
    path: Path,
    *,
    roles: list[str],
    layers: int = 2,
    steps: int = 60,
    log_freq: int = 10,
    probe_every: int = 2,
    seed: int = 0,
    awakening: float = 1.3,
    facts: dict[str, Any] | None = None,
) -> Path:
    """Write a run of experts of these roles with the real logger: merged gradients, a probe, and pairs of the first 8.

    awakening: factor on the bottom norms of perturbed experts.
    """
    rng = np.random.default_rng(seed)
    drift_LE = rng.normal(0, 0.03, (layers, len(roles)))
    known = {"planned_steps": (steps - 1) * log_freq + 1, "log_freq": log_freq, "routers": layers, "seed": seed}
    known |= {
        "probe_freq": log_freq * probe_every,
        "mixture": "top_k" if "peer" in roles else "parameters",
        "exit_state": "finished",
        "run_hash": "abcdef123",
    }
    with DynamicsLogger(path, flush_seconds=1e9) as logger:
        logger.log_table("experts", [{"expert": e, "role": role} for e, role in enumerate(roles)])
        logger.log_run(known | (facts or {}))
        for row in range(steps):
            measured = [
                [
                    _expert(rng, role, drift_LE[layer, e], awakening, len(roles), peer=role == "peer")
                    for e, role in enumerate(roles)
                ]
                for layer in range(layers)
            ]
            dynamics = aggregate(measured, roles)
            if probe_every and row % probe_every == 0:
                add_isolated(dynamics, [[_probed(each) for each in own] for own in measured], _pairs(rng, layers), ())
            logger.log(row * log_freq, dynamics, loss=3.0 - row / steps)
    return path


def _expert(
    rng: np.random.Generator, role: str, drift: float, awakening: float, experts: int, *, peer: bool
) -> ExpertDynamics:
    factor = {"bottom_norm": awakening if role == "perturbed" else 1.0}
    norms = {n: v * factor.get(n, 1.0) * math.exp(drift + rng.normal(0, 0.05)) for n, v in TIERS.items()}
    norms = {name: float(np.float32(value)) for name, value in norms.items()}
    return ExpertDynamics(
        **norms,
        norm=float(np.float32(math.sqrt(sum(value**2 for value in norms.values())))),
        routing_weight=float(np.float32((1 + rng.uniform(-0.1, 0.1)) / experts)),
        gradient_cosine=None if peer else float(np.float32(rng.uniform(0.7, 0.9) if role != "clean" else 1.0)),
        bottom_to_middle=float(np.float32(math.log(norms["bottom_norm"] / norms["middle_norm"]))),
        nonfinite=0,
        missing_gradients=0,
        token_share=float(np.float32(1 / experts)) if peer else None,
        peer=peer,
    )


def _probed(each: ExpertDynamics) -> ExpertDynamics:
    square = float(np.float32(0.9 * each.norm**2))
    changed = {"routing_weight": None, "token_share": None, "half_product": square, "half_product_clean": 0.7 * square}
    return ExpertDynamics(**{**vars(each), **changed})


def _pairs(rng: np.random.Generator, layers: int, experts: int = 8) -> list[list[PairDynamics]]:
    return [
        [
            PairDynamics(e, f, float(np.float32(rng.uniform(0.3, 0.5))), 1.25, 0.5)
            for e in range(experts)
            for f in range(e + 1, experts)
        ]
        for _ in range(layers)
    ]


def unpacked_copy(path: Path, target: Path) -> Path:
    """Write the same run with a row for each expert and pair, and columns of `dynamics` for each expert."""
    shutil.copy(path, target)
    with closing(sqlite3.connect(target)) as db:
        db.row_factory = sqlite3.Row
        layers = [*_rows(db, "packed_layers", "experts")]
        pairs = [*_rows(db, "packed_pairs", "pairs")]
        for table, rows in (("layers", layers), ("pairs", pairs)):
            for row in rows:
                names = ", ".join(row)
                db.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", [*row.values()])
            db.execute(f"DELETE FROM packed_{table}")
        db.execute("DELETE FROM run WHERE key = 'checksums'")
        _write_means(db, [row for row in layers if row["source"] == "merged"])
        db.commit()
    return target


def _rows(db: sqlite3.Connection, table: str, length: str) -> Iterator[dict[str, Any]]:
    """Yield the rows that packed rows stand for, number by number."""
    for packed in map(dict, db.execute(f"SELECT * FROM {table}").fetchall()):
        key = {name: packed[name] for name in packed if name != length and not _is_array(table, name)}
        for place in range(packed[length]):
            row = {} if table == "packed_pairs" else {"expert": place}
            for name in packed:
                if _is_array(table, name):
                    blob = packed[name]
                    number = math.nan if blob is None else struct.unpack_from("<f", blob, 4 * place)[0]
                    row[name] = None if math.isnan(number) else number
            if any(value is not None for name, value in row.items() if name != "expert"):
                yield {**key, **row}


def _is_array(table: str, name: str) -> bool:
    return any(column.name == name and column.type == "BLOB" for column in schema.TABLES[table][0])


def _write_means(db: sqlite3.Connection, rows: list[dict[str, Any]]) -> None:
    """Write the means over layers of each expert and step into columns of their own."""
    found: dict[tuple[int, int], dict[str, list[float]]] = {}
    for row in rows:
        own = found.setdefault((row["step"], row["expert"]), {})
        for metric in schema.METRICS:
            value = row[HIDDEN.get(metric.name, metric.name)]
            if value is not None:
                own.setdefault(metric.name, []).append(1 - value if metric.name == "direction" else value)
    for expert in sorted({expert for _, expert in found}):
        names = [metric.name for metric in schema.expert_metrics(expert)]
        for name in names:
            db.execute(f"ALTER TABLE dynamics ADD COLUMN expert_{expert}_{name} REAL")
        sets = ", ".join(f"expert_{expert}_{name} = ?" for name in names)
        for (step, number), own in found.items():
            if number == expert:
                means = [sum(own[name]) / len(own[name]) if own.get(name) else None for name in names]
                db.execute(f"UPDATE dynamics SET {sets} WHERE step = ?", [*means, step])
