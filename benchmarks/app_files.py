"""Run files for the benchmark of the app: written by the real logger, except the one with a million rows."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from common import BUILD, ROOT

sys.path.insert(0, str(ROOT))

from prismatic.contract import schema
from prismatic.runfile.logger import DynamicsLogger

DATA = BUILD / "app"
MADE_BY = 2  # raise it when this file writes other rows
ROLES = ("clean", "perturbed", "control", "perturbed")
LOG_FREQ = 10
Columns = dict[int, dict[str, np.ndarray]]


def small_run(
    path: Path, run: str, *, seed: int, steps: int, layers: int, scale: float = 1.0, experts: int = 3
) -> Path:
    """Write a run by the real logger: means over layers, and a row per layer if there are several."""
    rng = np.random.default_rng(seed)
    each = [norms(rng, steps, experts) for _ in range(layers)]
    means: Columns = {
        e: {metric: np.mean([layer[e][metric] for layer in each], axis=0) for metric in each[0][e]}
        for e in range(experts)
    }
    with DynamicsLogger(path, num_experts=experts, flush_seconds=1e9) as logger:
        logger.log_table("experts", [{"expert": e, "role": ROLES[e]} for e in range(experts)])
        logger.log_run(facts(run, seed=seed, steps=steps, scale=scale, experts=experts))
        for row in range(steps):
            metrics: dict[str, Any] = {"expert_gradients": {f"expert_{e}": at(means[e], row, e) for e in means}}
            metrics["divergence_scores"] = {f"expert_{e}_divergence": gap(means, e, row) for e in means if e}
            if layers > 1:
                metrics["layers"] = [layer_row(each, layer, e, row) for layer in range(layers) for e in means]
            logger.log(row * LOG_FREQ, metrics, loss=3.0 * (1 + row) ** -0.1)
    return path


def norms(rng: np.random.Generator, steps: int, experts: int) -> Columns:
    """Return tier norms that drift together with noise of each expert, and the metrics derived from them."""
    common = np.cumsum(rng.normal(0, 0.5 / np.sqrt(steps), (3, steps)), axis=1)
    found: Columns = {}
    for e in range(experts):
        own = np.exp(np.array([-1.6, -1.6, -0.1])[:, None] + common + rng.normal(0, 0.05, (3, steps)))
        found[e] = {f"{tier}_norm": norm for tier, norm in zip(("top", "bottom", "middle"), own, strict=True)}
        found[e] |= {"norm": np.sqrt((own**2).sum(axis=0)), "routing_weight": np.full(steps, 1 / experts)}
        found[e] |= {"bottom_to_middle": np.log(own[1] / own[2])}
        found[e] |= {"direction": rng.uniform(0.05, 0.15, steps)} if e else {}
    return found


def at(columns: Mapping[str, np.ndarray], row: int, expert: int) -> dict[str, float]:
    """Return one expert's metrics at one logged step, named as in the wide table."""
    whole = "perturbed_norm" if expert else "clean_norm"
    return {whole if name == "norm" else name: float(values[row]) for name, values in columns.items()}


def gap(means: Columns, expert: int, row: int) -> float:
    """Return the documented divergence score."""
    return float(np.mean([abs(means[expert][f"{t}_norm"][row] - means[0][f"{t}_norm"][row]) for t in schema.TIERS]))


def layer_row(each: list[Columns], layer: int, expert: int, row: int) -> dict[str, Any]:
    """Return one expert's row in one layer at one logged step."""
    own = {name: float(values[row]) for name, values in each[layer][expert].items() if name != "direction"}
    return {"step": row * LOG_FREQ, "layer": layer, "expert": expert, "source": "merged", "gradient_cosine": 0.9, **own}


def facts(run: str, *, seed: int, steps: int, scale: float, experts: int) -> dict[str, object]:
    """Return the facts of a run."""
    options = {"num_experts": experts, "seed": seed, "perturbation_scale": scale, "sparsity": 0.1, "merge": "example"}
    about = {"run_hash": run, "planned_steps": (steps - 1) * LOG_FREQ + 1, "exit_state": "finished"}
    return about | {f"config.{option}": value for option, value in options.items()}


def large_run(rows: int, experts: int = 4) -> Path:
    """Write a run with `rows` rows and twelve tier norms, unless an earlier benchmark left it."""
    path = DATA / "large" / f"{rows:09x}" / "dynamics.db"
    ready, parameters = path.with_name("made.json"), json.dumps([MADE_BY, rows, experts])
    if ready.exists() and ready.read_text() == parameters:
        return path
    print(f"making {path.relative_to(ROOT)}", flush=True)
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True)
    columns = norms(np.random.default_rng(0), rows, experts)
    wide = {"step": np.arange(rows) * LOG_FREQ, "loss": 3.0 * (1 + np.arange(rows)) ** -0.1}
    for e, own in columns.items():
        whole = "perturbed_norm" if e else "clean_norm"
        wide |= {f"expert_{e}_{whole if name == 'norm' else name}": values for name, values in own.items()}
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")
        db.execute(f"PRAGMA application_id={schema.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={schema.SCHEMA_VERSION}")
        for statement in schema.create_statements(experts):
            db.execute(statement)
        into = f"INSERT INTO dynamics ({', '.join(wide)}) VALUES ({', '.join('?' * len(wide))})"
        for start in range(0, rows, 50_000):
            chunk = zip(*(values[start : start + 50_000].tolist() for values in wide.values()), strict=True)
            db.executemany(into, chunk)
        db.executemany("INSERT INTO experts (expert, role) VALUES (?, ?)", list(enumerate(ROLES[:experts])))
        about = facts(f"{rows:09x}", seed=0, steps=rows, scale=1.0, experts=experts)
        db.executemany("INSERT INTO run VALUES (?, ?)", [(key, json.dumps(value)) for key, value in about.items()])
        db.commit()
    ready.write_text(parameters)
    return path
