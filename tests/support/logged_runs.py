"""Helpers for run files in tests: dynamics to log, and rows, columns and events read back with plain sqlite3."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from prismatic.contract import schema
from prismatic.runfile.logger import DynamicsLogger


def rows(path: Path, query: str = "SELECT * FROM dynamics ORDER BY step") -> list[dict]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def columns(path: Path, table: str = "dynamics") -> list[str]:
    return [row["name"] for row in rows(path, f"PRAGMA table_info({table})")]


def codes(path: Path) -> list[str]:
    return [row["code"] for row in rows(path, "SELECT code FROM events WHERE code != 'measuring' ORDER BY id")]


def pragma(path: Path, name: str) -> object:
    return rows(path, f"PRAGMA {name}")[0][name]


def dynamics(experts: int = 2, value: float = 0.5) -> dict:
    """Return the dynamics of a step, with a different number in each column."""
    names = {i: [metric.name for metric in schema.expert_metrics(i)] for i in range(experts)}
    gradients = {f"expert_{i}": {n: value + i + k / 64 for k, n in enumerate(names[i])} for i in range(experts)}
    scores = {f"expert_{i}_{n}": gradients[f"expert_{i}"].pop(n) for i in range(1, experts) for n in names[i][-3:]}
    return {"expert_gradients": gradients, "divergence_scores": scores}


def flat(logged: dict) -> dict[str, float]:
    gradients = logged["expert_gradients"].items()
    return {f"{key}_{name}": value for key, values in gradients for name, value in values.items()} | logged[
        "divergence_scores"
    ]


def log_steps(logger: DynamicsLogger, **metrics: object) -> None:
    for step in range(3):
        logger.log(step, dynamics(), **metrics)
        logger.flush()


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
