"""Large mixtures: the cost of logging 128 experts, a run of 48 layers x 128 experts x 1,000 steps, and its pages.

    python benchmarks/large.py [--quick] [--json FILE]

*A step.* A Mixtral of transformers, 2 layers of 128 fused experts of 0.2 M weights each, is trained on random tokens
on one thread. A plain step and a logged one (gradients measured, aggregated and logged, as the callback does it) take
turns. Then the logger gets 48 layers of 128 experts: the processor time of `aggregate`, `log` and the writing thread
for one step is measured, and compared with the plain step times 48 / 2, which is computed: no model of that size fits
here.

*A run.* Two processes on two cores, one after the other, each with its peak of resident memory and that of its
children: one writes 1,000 logged steps with the real logger (a probe every 500 steps, with the pairs of 64 experts),
one reads and judges the file as `prismatic check` does. The numbers are made up; making them takes part of the seconds.

*Pages.* The seconds from the click until a page is complete in a headless Chromium, as in app.py, median of later
visits of a session that follows this run. At last, the experts of all layers together are chosen on the Layers page.

Exits 0 only if every goal holds. Without --quick the figures go to benchmarks/results/large.json. `--quick` logs 60
steps of 6 layers and visits each page twice, to try the benchmark.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import BUILD, ROOT, Skips, arguments, conclude, judged

sys.path.insert(0, str(ROOT))

from prismatic.contract.schema import TIERS
from prismatic.measure.metrics import ExpertArrays, PairDynamics, add_isolated, aggregate
from prismatic.runfile.logger import DynamicsLogger

RESULTS = ROOT / "benchmarks" / "results" / "large.json"
FOLDER = BUILD / "large"
EXPERTS, CONTROLS, COMPARED = 128, 4, 64
LOG_FREQ, PROBE_ROWS = 10, 50  # steps between logged rows, and rows between two probes
RUN = "1a49e0000"
LEVELS = dict(zip(TIERS, (0.2, 0.2, 0.9), strict=True))
TRAINED_LAYERS = 2
ALL_LAYERS_BOX = "Layer of the experts"
GIB = 1 << 30


@dataclass(frozen=True)
class Work:
    """The size of the benchmark."""

    layers: int
    steps: int
    repeats: int
    visits: int


FULL = Work(layers=48, steps=1000, repeats=9, visits=5)
QUICK = Work(layers=6, steps=60, repeats=2, visits=2)


@dataclass
class Report(Skips):
    """The measurements, in seconds, bytes and milliseconds as their names say."""

    step: dict[str, float] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    first: dict[str, list[float]] = field(default_factory=dict)
    later: dict[str, list[float]] = field(default_factory=dict)
    all_layers: float = float("nan")
    """Seconds until the pairs of all layers together are shown, the first time."""
    server_bytes: int = 0
    errors: list[str] = field(default_factory=list)


def main() -> int:
    """Measure, print the goals, and return 0 if every goal holds."""
    if sys.argv[1:2] == ["worker"]:
        return worker(*sys.argv[2:])
    chosen = arguments(__doc__, "few layers, steps and visits")
    work, report = (QUICK if chosen.quick else FULL), Report()
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.sched_setaffinity(0, {*list(os.sched_getaffinity(0))[:2]})
    report.step = trained_steps(work) | logged_steps(work)
    report.run = written_read_judged(work)
    report.versions |= {name: importlib.metadata.version(name) for name in ("torch", "transformers", "streamlit")}
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        report.skip("pages", "no Chromium on the PATH")
    else:
        asyncio.run(visit_pages(chromium, work, report))
    figures = {name: value for name, value in asdict(report).items() if name not in ("skipped", "versions")}
    target = chosen.json or (None if chosen.quick else RESULTS)
    return conclude(goals(work, report), {"work": vars(work)} | figures, report, quick=chosen.quick, to=target)


def goals(work: Work, report: Report) -> list[dict[str, Any]]:
    """Return the goals."""
    step, run = report.step, report.run
    scaled = step["plain"] * work.layers / TRAINED_LAYERS
    size = f"{work.layers} x {EXPERTS} x {work.steps:,}"
    every = f"every {LOG_FREQ}th step"
    pages = {name: median(report.later.get(name, [])) for name in ("Layers", "Compare")}
    at_most = [
        (f"{every} measured and logged: 2 x 128, of a trained step", step["logged"] / LOG_FREQ / step["plain"], 0.01),
        ("the same, log() alone", step["log"] / LOG_FREQ / step["plain"], 0.001),
        (
            f"{every} logged and written: {work.layers} x 128, of a scaled step",
            step["written"] / LOG_FREQ / scaled,
            0.01,
        ),
        (f"{size}: written, read and judged, seconds", run["seconds"], 60.0),
        ("the same, peak memory of the largest process, GiB", max(run["bytes"].values()) / GIB, 2.0),
        *[(f"page switch to {name}, seconds", seconds, 0.5) for name, seconds in pages.items()],
        ("the experts of all layers on the Layers page, seconds", report.all_layers, 2.0),
        ("errors of pages and server", len(report.errors), 0),
    ]
    return judged([], at_most)


def median(figures: list[float]) -> float:
    """Return the median, or NaN without figures."""
    return statistics.median(figures) if figures else float("nan")


# -- A step ------------------------------------------------------------------------------------------------------------


def trained_steps(work: Work) -> dict[str, float]:
    """Return the median seconds of a plain step, of a logged one beyond it, and of its log() alone."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    from prismatic.experts.discovery import find_routers
    from prismatic.experts.protocol import roles_of
    from prismatic.measure.gradients import measure

    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": TRAINED_LAYERS, "vocab_size": 256}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_experts_per_tok": 2}
    model = MixtralForCausalLM(MixtralConfig(**sizes, **heads, num_local_experts=EXPERTS, use_cache=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.randint(0, 256, (8, 512))
    routers = find_routers(model)
    times: dict[str, list[float]] = {"plain": [], "logged": [], "log": []}
    with tempfile.TemporaryDirectory() as folder, DynamicsLogger(Path(folder) / "dynamics.db") as logger:
        for step in range(work.repeats + 1):
            start = time.perf_counter()
            model(input_ids=tokens, labels=tokens).loss.backward()
            measuring = time.perf_counter()
            dynamics = aggregate(measure(routers), roles_of(routers[0]))
            logging = time.perf_counter()
            logger.log(step, dynamics)
            logged = time.perf_counter()
            optimizer.step()
            optimizer.zero_grad()
            end = time.perf_counter()
            times["plain"].append(end - start - (logged - measuring))
            times["logged"].append(logged - measuring)
            times["log"].append(logged - logging)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}  # the first step ranks the weights


def logged_steps(work: Work) -> dict[str, float]:
    """Return the processor seconds of one step of all layers: aggregated, logged and written, and of log() alone."""
    rng = np.random.default_rng(0)
    made = [made_layers(rng, work.layers) for _ in range(10)]
    in_log = 0.0
    with tempfile.TemporaryDirectory() as folder:
        logger = DynamicsLogger(Path(folder) / "dynamics.db", flush_seconds=0.5)
        start = time.process_time()
        for step in range(100):
            dynamics = aggregate(made[step % 10], roles())
            before = time.perf_counter()
            logger.log(step, dynamics, loss=3.0)
            in_log += time.perf_counter() - before
        logger.close()  # the time of the writing thread is this process's
        return {"written": (time.process_time() - start) / 100, "log_all_layers": in_log / 100}


def roles() -> list[str]:
    """Return the roles of the experts."""
    return ["clean", *["perturbed"] * (EXPERTS - 1 - CONTROLS), *["control"] * CONTROLS]


def made_layers(rng: np.random.Generator, layers: int) -> list[ExpertArrays]:
    """Return numbers like those that `measure` finds in one step."""
    noise = rng.standard_normal((layers, 6, EXPERTS)) * 0.05
    found = []
    for own in noise:
        columns = {f"{tier}_norm": level * np.exp(own[k]) for k, (tier, level) in enumerate(LEVELS.items())}
        columns["norm"] = np.sqrt(sum(norm_E**2 for norm_E in columns.values()))
        columns |= {"routing_weight": (1 + np.abs(own[3])) / EXPERTS, "gradient_cosine": 0.8 + own[4]}
        columns |= {"bottom_to_middle": np.log(columns["bottom_norm"] / columns["middle_norm"])}
        columns |= dict.fromkeys(("nonfinite", "missing_gradients"), np.zeros(EXPERTS))
        found.append(ExpertArrays(columns, peer=False))
    return found


# -- A run -------------------------------------------------------------------------------------------------------------


def written_read_judged(work: Work) -> dict[str, Any]:
    """Return seconds and peak memory of the processes that write, and that read and judge, one run."""
    path = FOLDER / RUN / "dynamics.db"
    path.parent.mkdir(parents=True)
    found: dict[str, Any] = {"seconds_of": {}, "bytes": {}}
    for task in ("write", "judge"):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, "worker", task, str(path), str(work.layers), str(work.steps)],
            stdout=subprocess.PIPE,
            check=True,
        )
        found["seconds_of"][task] = time.perf_counter() - start
        told = json.loads(done.stdout)
        found["bytes"] |= {f"{task}, {who}": size for who, size in told.pop("bytes").items()}
        found |= told
        print(f"{task}: {found['seconds_of'][task]:.1f} s, {told}, {found['bytes']}", flush=True)
    return found | {"seconds": sum(found["seconds_of"].values()), "file_bytes": path.stat().st_size}


def worker(task: str, path: str, layers: str, steps: str) -> int:
    """Do one task in this process, and print what it took."""
    told = write_run(Path(path), int(layers), int(steps)) if task == "write" else judge_run(Path(path))
    # Not getrusage for this process: there the memory of the process that started it counts as its own.
    (own,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    told["bytes"] = {"itself": int(own) << 10, "its children": children << 10}
    print(json.dumps(told))
    return 0


def write_run(path: Path, layers: int, steps: int) -> dict[str, Any]:
    """Write a run with the real logger."""
    rng = np.random.default_rng(0)
    options = {"num_experts": EXPERTS - CONTROLS, "control_experts": CONTROLS, "perturbation_scale": 1.0, "seed": 0}
    facts = {"run_hash": RUN, "mixture": "parameters", "exit_state": "finished", "routers": layers}
    facts |= {"planned_steps": (steps - 1) * LOG_FREQ + 1, "log_freq": LOG_FREQ, "probe_freq": LOG_FREQ * PROBE_ROWS}
    with DynamicsLogger(path) as logger:
        logger.log_table("experts", [{"expert": e, "role": role} for e, role in enumerate(roles())])
        logger.log_run(facts | {f"config.{name}": value for name, value in options.items()})
        for row in range(steps):
            measured = made_layers(rng, layers)
            dynamics = aggregate(measured, roles())
            if row % PROBE_ROWS == 0:
                add_isolated(dynamics, [probed(own) for own in measured], made_pairs(rng, layers), ())
            logger.log(row * LOG_FREQ, dynamics, loss=3.0 * (1 + row) ** -0.1)
    return {"dropped": logger.dropped}


def probed(layer: ExpertArrays) -> ExpertArrays:
    """Return the same layer as the isolated probe measures it: without shares, with the products of half batches."""
    square_E = 0.9 * layer.columns["norm"] ** 2
    products = {"half_product": square_E, "half_product_clean": 0.7 * square_E}
    columns = {name: values for name, values in layer.columns.items() if name != "routing_weight"}
    return ExpertArrays(columns | products, peer=False)


def made_pairs(rng: np.random.Generator, layers: int) -> list[list[PairDynamics]]:
    """Return comparisons of the pairs of some experts."""
    pairs = [(e, f) for e in range(COMPARED) for f in range(e + 1, COMPARED)]
    return [
        [PairDynamics(*pair, product, 1.3, 0.4) for pair, product in zip(pairs, row, strict=True)]
        for row in rng.uniform(0.4, 0.6, (layers, len(pairs))).tolist()
    ]


def judge_run(path: Path) -> dict[str, Any]:
    """Read and judge a run as `prismatic check` does, without a cache."""
    from validation.files.read_files import read_files
    from validation.judgement.judge import judge
    from validation.report.json_report import as_json

    start = time.perf_counter()
    files, rejected = read_files([path])
    if rejected:
        raise rejected[0].error
    read = time.perf_counter()
    judgement = judge(files)
    report = as_json(judgement)
    seconds = {"reading": read - start, "judging": time.perf_counter() - read}
    return {"status": report["status"], "experts": files[0].num_experts, **seconds}


# -- Pages -------------------------------------------------------------------------------------------------------------


async def visit_pages(chromium: str, work: Work, report: Report) -> None:
    """Time each page of a session that follows the run."""
    from app_browser import FLAGS, served, visitor
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        report.versions["chromium"] = browser.version
        async with served(FOLDER / "server.log", FOLDER) as server, visitor(browser, server) as guest:
            await guest.follow(RUN)
            await guest.complete()
            names = await guest.pages()
            for times in (report.first, *[report.later] * work.visits):
                for name in (*names[1:], names[0]):
                    times.setdefault(name, []).append(await guest.visit(name))
                    report.server_bytes = max(report.server_bytes, server.memory)
            await guest.visit("Layers")
            report.all_layers = await guest.choose(ALL_LAYERS_BOX, "all")
            report.errors += guest.errors + ["a page shows an exception"] * await guest.failures()
            report.errors += server.complaints()
        await browser.close()
    print(f"the experts of all layers: {report.all_layers:.2f} s", flush=True)
    for name, seconds in report.later.items():
        print(f"{name:<12} first {report.first[name][0]:.2f} s, later {median(seconds):.2f} s", flush=True)
    print(f"server: {report.server_bytes / GIB:.2f} GiB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
