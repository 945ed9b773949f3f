"""The cost of a logged step, compared to a plain step, one read of every gradient, and other ways of logging.

    python benchmarks/logging_overhead.py [--quick] [--json FILE] [--device cpu|cuda]

Everything runs in one process on the same gradients; the figures are ratios of medians of interleaved repeats. Exits 0
only if every goal holds. `--quick` skips the large model. On a CPU, *ours* sums by compiled code (numba), and *ours,
numpy* without it. TensorBoard histograms are measured if it is installed. The isolated probe has models of its own, see
probe_overhead.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GptOssConfig, MixtralConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

sys.path.insert(0, str(Path(__file__).parent.parent))

from probe_overhead import FEW, MANY, print_probe, probe_goals, probe_ways

from prismatic import DynamicsLogger
from prismatic.experts.discovery import find_routers
from prismatic.experts.tiers import TierIndices, tier_indices
from prismatic.measure.gradients import measure
from prismatic.measure.kernels import TensorGradients, choice, measure_tensors, prepare_gpu
from prismatic.measure.kernels import measure as measuring
from prismatic.measure.metrics import aggregate
from prismatic.train.config import RunConfig
from prismatic.train.corpus import Corpus
from prismatic.train.model import ByteLM

MODELS = {
    "1.2 M": RunConfig(hidden_size=128, num_layers=2, sequence_length=128, batch_size=8),
    "28 M": RunConfig(hidden_size=512, num_layers=3, num_heads=8, sequence_length=512, batch_size=16),
}
STACKED = {
    "8 M, stacked as in Mixtral": (1.6, 4.0),
    "8 M, interleaved as in gpt-oss": (2.5, 6.0),
}  # the most reads that a step may cost, by compiled code and by numpy
AFTER_A_STEP = "ours, right after a step"
OURS, BY_NUMPY = "ours: measured and logged", "ours, numpy: measured and logged"
SIZES = {"hidden_size": 512, "intermediate_size": 640, "num_local_experts": 8}
SLOW = {"lists of elements", "TensorBoard histograms"}  # a call takes seconds, so these are repeated less often


def main() -> int:
    """Measure, print the figures and the goals, and return 0 if every goal holds."""
    options = arguments()
    device = options.device
    models = {name: config for name, config in MODELS.items() if not (options.quick and name == "28 M")}
    report: dict[str, Any] = {"machine": machine(device), "models": {}, "goals": []}
    for name, config in models.items():
        config = config.model_copy(update={"device": device})
        report["models"][name] = times = measured(config, repeats=5 if options.quick else 9)
        print_table(name, times)
    report["goals"] = [
        *goals(report["models"], device),
        *(memory_goals() if device == "cpu" else [device_memory_goal()]),
    ]
    report["goals"] += error_goals(device)
    for name, limits in STACKED.items():
        report["models"][name] = times = measured_stacked(name, device, repeats=9 if options.quick else 25)
        print_table(name, times)
        report["goals"] += stacked_goals(name, times, limits)
    report["probe"] = probes = probed(device, quick=options.quick)
    report["goals"] += [judged(*goal) for goal in probe_goals(probes)]
    for goal in report["goals"]:
        holds = "holds" if goal["holds"] else "FAILS"
        print(f"{goal['goal']:<72} {goal['figure']:>9.3g}  limit {goal['limit']:<6g} {holds}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(goal["holds"] for goal in report["goals"]) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small model only, fewer repeats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cpu", "cuda"], default=found, help="default: the GPU if there is one")
    return parser.parse_args()


def machine(device: str) -> dict[str, str]:
    """Return the device, versions and date of the figures."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    versions = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    about = {"device": name, "threads": str(torch.get_num_threads()), "date": time.strftime("%Y-%m-%d"), **versions}
    way = prepare_gpu(torch.device("cuda:0")) if device == "cuda" else choice.prepare()
    return {**about, "way": way.message}


@contextmanager
def by_numpy() -> Iterator[None]:
    """Sum by numpy alone, as where numba is not installed."""
    prepared, measuring.prepare = measuring.prepare, lambda: choice.Way(choice._by_numpy, "by numpy")
    try:
        yield
    finally:
        measuring.prepare = prepared


def logged_by_numpy(routers: list[Any], logger: DynamicsLogger, step: Iterator[int]) -> None:
    """Measure and log a step by numpy."""
    with by_numpy():
        logger.log(next(step), aggregate(measure(routers)))


def measured(config: RunConfig, repeats: int) -> dict[str, float]:
    """Return the median seconds of each way of logging, all on the gradients of the same step."""
    torch.manual_seed(0)
    model = ByteLM(config).to(config.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    corpus = Corpus.load()
    batch = corpus.batch(0, batch_size=config.batch_size, length=config.sequence_length + 1, seed=0).to(config.device)

    def plain() -> None:
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()

    plain()
    with tempfile.TemporaryDirectory() as folder, DynamicsLogger(Path(folder) / "dynamics.db") as logger:
        ways = {"plain step": plain, **logging_ways(model, logger, Path(folder))}
        # Where a step is logged in training, its code and data have left the caches of the processor.
        ways |= {"another plain step": plain, AFTER_A_STEP: ways[OURS]}
        return interleaved(ways, repeats, config.device)


def measured_stacked(name: str, device: str, repeats: int) -> dict[str, float]:
    """Return the median seconds of a step of a layer of stacked experts, of one read of its gradients, and of ours."""
    torch.manual_seed(0)
    kind = (MixtralExperts, MixtralConfig) if "Mixtral" in name else (GptOssExperts, GptOssConfig)
    layer = torch.nn.Sequential(kind[0](kind[1](**SIZES)))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.02)
    layer.to(device)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    tokens = torch.randn(512, 512, device=device)
    chosen = torch.arange(1024, device=device).view(512, 2) % 8
    weights = torch.full((512, 2), 0.5, device=device)

    def plain() -> None:
        optimizer.zero_grad()
        layer[0](tokens, chosen, weights).square().mean().backward()
        optimizer.step()

    plain()
    routers, step = find_routers(layer), iter(range(1_000_000))
    with tempfile.TemporaryDirectory() as folder, DynamicsLogger(Path(folder) / "dynamics.db") as logger:
        ways = {
            "plain step": plain,
            "one read (foreach norm)": lambda: torch.stack(torch._foreach_norm([p.grad for p in layer.parameters()])),
            "ours: measured": lambda: measure(routers),
            OURS: lambda: logger.log(next(step), aggregate(measure(routers))),
            **({BY_NUMPY: lambda: logged_by_numpy(routers, logger, step)} if device == "cpu" else {}),
        }
        return interleaved(ways, repeats, device)


def probed(device: str, *, quick: bool) -> dict[int, dict[str, float]]:
    """Return the median seconds of a step and of a probe, by the number of experts."""
    times = {}
    for experts, repeats in ((FEW, 5), (MANY, 2)) if quick else ((FEW, 9), (MANY, 5)):
        times[experts] = interleaved(probe_ways(experts, device), repeats, device)
        print_probe(experts, times[experts])
    print()
    return times


def logging_ways(model: ByteLM, logger: DynamicsLogger, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return each way to log the experts' gradients, by name."""
    routers = find_routers(model)
    weights = [p for router in routers for p in router.experts.parameters()]
    grads = [p.grad for p in weights if p.grad is not None]
    step = iter(range(1_000_000))
    ways: dict[str, Callable[[], Any]] = {
        "one read (foreach norm)": lambda: torch.stack(torch._foreach_norm(grads)),
        "torch get_total_norm": lambda: torch.nn.utils.get_total_norm(grads),
        "ours: measured": lambda: measure(routers),
        OURS: lambda: logger.log(next(step), aggregate(measure(routers))),
        **({BY_NUMPY: lambda: logged_by_numpy(routers, logger, step)} if grads[0].device.type == "cpu" else {}),
        "wandb-style histograms (numpy, 64 bins)": lambda: [
            np.histogram(g.detach().cpu().numpy(), bins=64) for g in grads
        ],
        "lists of elements": lambda: [sum(x * x for x in g.flatten().tolist()) for g in grads],
    }
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("TensorBoard histograms: skipped, tensorboard is not installed")
    else:
        writer = SummaryWriter(str(folder / "tensorboard"))
        ways["TensorBoard histograms"] = lambda: [
            writer.add_histogram(str(i), g, next(step)) for i, g in enumerate(grads)
        ]
    return ways


def interleaved(ways: dict[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, float]:
    """Return the median seconds of each way, measured in turns so that a busy moment affects all of them."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            if name in SLOW and repeat > 2:
                continue
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            way()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    # The first round warms caches and allocators.
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def print_table(name: str, times: dict[str, float]) -> None:
    """Print milliseconds, share of a plain step and multiple of one read."""
    plain, read = times["plain step"], times["one read (foreach norm)"]
    print(f"\n{name} expert parameters{'':<22} {'ms':>10} {'of a step':>10} {'reads':>8}")
    for way, seconds in times.items():
        print(f"  {way:<40} {1e3 * seconds:>10.3f} {seconds / plain:>10.2%} {seconds / read:>8.2f}")
    print()


def goals(models: dict[str, dict[str, float]], device: str) -> list[dict[str, Any]]:
    """Return the goals for each model; those on a GPU are for the large one alone."""
    found = []
    on_gpu = device == "cuda"
    for name, reads, share in (("28 M", 1.5, 0.005) if on_gpu else ("28 M", 1.4, 0.002), ("1.2 M", 2.5, 0.015)):
        times = models.get(name)
        if times is None or (on_gpu and name != "28 M"):
            continue
        step, read, ours = times["plain step"], times["one read (foreach norm)"], times[OURS]
        found += [
            judged(f"a logged step, as a multiple of one read of all gradients ({name})", ours / read, reads),
            judged(f"a logged step, as a share of a plain one ({name})", ours / step, share),
        ]
        if BY_NUMPY in times:
            limit = {"28 M": 4.0, "1.2 M": 6.5}[name]
            found.append(
                judged(f"the same without numba, as a multiple of one read ({name})", times[BY_NUMPY] / read, limit)
            )
    return found


def stacked_goals(name: str, times: dict[str, float], limits: tuple[float, float]) -> list[dict[str, Any]]:
    """Return the goals for a layer of stacked experts."""
    read = times["one read (foreach norm)"]
    found = [judged(f"a logged step of peers, in reads ({name})", times[OURS] / read, limits[0])]
    if BY_NUMPY in times:
        found.append(judged(f"the same without numba, in reads ({name})", times[BY_NUMPY] / read, limits[1]))
    return found


def memory_goals() -> list[dict[str, Any]]:
    """Return the goals for memory on a CPU: of the tiers while a model is measured, and the peak beyond them."""
    torch.manual_seed(0)
    config = MODELS["1.2 M"]
    model = ByteLM(config)
    model.loss(torch.randint(0, 256, (2, config.sequence_length + 1))).backward()
    routers = find_routers(model)
    measure(routers)
    tracemalloc.start()
    measure(routers)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    weights = sum(p.numel() for router in routers for p in router.experts.parameters())
    peers = find_routers(torch.nn.Sequential(MixtralExperts(MixtralConfig(**SIZES))))
    for parameter in peers[0].module.parameters():
        torch.nn.init.normal_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    measure(peers)
    tiers = [peers[0].tiers_of(e) for e in range(len(peers[0]))]
    held = sum(tier_bytes(own) for own in tiers) / sum(p.numel() for p in peers[0].module.parameters())
    return [
        judged(
            "memory of tiers that the model saves, bytes per weight",
            sum(tier_bytes(r.tiers) for r in routers) / weights,
            0.3,
        ),
        judged("memory of the tiers of peers, bytes per weight", held, 0.3),
        judged("memory beyond the tiers, bytes per weight", peak / weights, 1.0),
    ]


def device_memory_goal() -> dict[str, Any]:
    """Return the goal for the peak memory of a measurement on a GPU, beside gradients and tiers."""
    torch.manual_seed(0)
    model = ByteLM(MODELS["28 M"]).cuda()
    model.loss(torch.randint(0, 256, (2, 129), device="cuda")).backward()
    routers = find_routers(model)
    measure(routers)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    measure(routers)
    grads = sum(p.grad.nbytes for r in routers for p in r.experts.parameters() if p.grad is not None)
    peak = torch.cuda.max_memory_allocated() - before
    return judged("peak memory of a measurement, as a share of the gradients", peak / grads, 0.02)


def tier_bytes(tiers: TierIndices) -> int:
    """Return the memory of tiers: indices and bit planes."""
    cached = [tensor for own in tiers._cache.values() for tensor in own]
    return sum(tensor.nbytes for tensor in [*tiers.buffers(), *cached])


def error_goals(device: str) -> list[dict[str, Any]]:
    """Return the goals for errors against float64, with ordinary gradients and with tiny tiers."""
    generator = torch.Generator().manual_seed(0)
    weight, grad = torch.randn(2, 1_000_000, generator=generator)
    tiers = tier_indices(weight, 0.1)
    figures = []
    for small, factor in (("none", 1.0), ("top", 3e-3), ("bottom", 3e-3), ("middle", 3e-4)):
        scaled = grad.clone()
        inside = {"none": [], "top": tiers.top, "bottom": tiers.bottom}.get(small)
        if inside is None:
            inside = ~torch.isin(torch.arange(len(grad)), torch.cat(list(tiers)))
        scaled[inside] *= factor
        moved = type(tiers)(*(indices.to(device) for indices in tiers))
        sums = measure_tensors([TensorGradients([scaled.to(device)], moved)])[0][0, :3]
        square = scaled.double().square()
        ends = [square[indices].sum().item() for indices in tiers]
        exact = np.array([*ends, 0.0])
        square[torch.cat(list(tiers))] = 0
        exact[2] = square.sum().item()
        error = float(np.abs(np.sqrt(sums) / np.sqrt(exact) - 1).max())
        share = exact[["top", "bottom", "middle"].index(small)] / exact.sum() if small != "none" else 1
        name = "of ordinary gradients" if small == "none" else f"with a {small} tier of {share:.0e} of the whole"
        figures.append(judged(f"relative error of norms, {name}", error, 1e-6))
    return figures


def judged(goal: str, figure: float, limit: float) -> dict[str, Any]:
    """Return one goal with its figure, its limit and whether it holds."""
    return {"goal": goal, "figure": figure, "limit": limit, "holds": figure <= limit}


if __name__ == "__main__":
    sys.exit(main())
