"""Compiled sums: every layout without a copy, threads, types that differ, and the way that is chosen at start."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prismatic.experts.tiers import TierIndices, tier_indices
from prismatic.layer.router import Prismatic
from prismatic.measure.gradients import measure
from prismatic.measure.kernels import TensorGradients, choice, compiled, with_numba
from prismatic.measure.kernels.choice import SWITCH, prepare
from prismatic.measure.kernels.layout import readable
from prismatic.measure.kernels.with_numba import tier_sums_numba
from prismatic.measure.kernels.with_numpy import tier_sums_numpy
from prismatic.measure.plan import Plan
from tests.support.source_tree import ROOT


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stacked(kind: str, dtype: torch.dtype) -> list[Tensor]:
    """Return the views of three experts in one gradient, stored in some layout."""
    whole = normal(3, 96, 64, seed=1).to(dtype)
    pieces = {
        "one after the other": lambda own: own.chunk(2, 0)[1],
        "beside each other": lambda own: own.chunk(2, 1)[1],
        "every second row": lambda own: own[1::2],
        "every second column": lambda own: own[:, 1::2],
        "transposed": lambda own: own.T,
        "transposed, beside each other": lambda own: own.chunk(2, 1)[0].T,
        "the same number everywhere": lambda own: own[:1, :1].expand(96, 64),
    }
    return [pieces[kind](own) for own in whole]


KINDS = [
    "one after the other",
    "beside each other",
    "every second row",
    "every second column",
    "transposed",
    "transposed, beside each other",
    "the same number everywhere",
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_gradient_of_all_experts_is_summed_where_it_lies(kind, dtype):
    grads = stacked(kind, dtype)
    tensor = TensorGradients(grads, tier_indices(normal(grads[0].numel(), seed=2), 0.1))
    assert [own.data_ptr() for own in readable(grads, grads[0], with_numba.KINDS).grads] == [
        own.data_ptr() for own in grads
    ]
    assert tier_sums_numba([tensor]) == pytest.approx(tier_sums_numpy(tensor), rel=1e-5, abs=1e-2)


@pytest.mark.parametrize("shape", [(4, 6, 5), (7, 33), (3, 1, 50)])
def test_a_layout_that_is_not_rows_of_whole_steps_is_copied(shape):
    grads = [
        normal(*(2 * length for length in shape), seed=e)[tuple(slice(length) for length in shape)] for e in (1, 2)
    ]
    tensor = TensorGradients(grads, tier_indices(normal(grads[0].numel()), 0.2))
    assert tier_sums_numba([tensor]) == pytest.approx(tier_sums_numpy(tensor), rel=1e-6, abs=1e-6)


BEFORE_A_WALL = """
import ctypes, mmap
import numpy as np, torch
from prismatic.experts.tiers import Tiers
from prismatic.measure.kernels import TensorGradients
from prismatic.measure.kernels.with_numba import tier_sums_numba

pages = np.frombuffer(mmap.mmap(-1, 2 * mmap.PAGESIZE), dtype=np.float32)
pages[:] = 1.0
half = len(pages) // 2
assert not ctypes.CDLL(None).mprotect(ctypes.c_void_p(pages[half:].ctypes.data), mmap.PAGESIZE, 0)
row = torch.from_numpy(pages[:half])[half - 127 :: 2]  # its last element is the last of the page
print(tier_sums_numba([TensorGradients([row.expand(128, 64)], Tiers.none())])[0, 2])
"""


@pytest.mark.long  # a process of its own, because what it tests would end it
@pytest.mark.skipif(sys.platform == "win32", reason="has no mprotect")
def test_nothing_is_read_behind_the_last_element_of_a_gradient():
    done = subprocess.run([sys.executable, "-c", BEFORE_A_WALL], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "8192.0\n"), done.stderr[-2000:]


def test_experts_of_other_types_or_strides_than_the_first_are_summed_as_well():
    grads = [normal(50, 64, seed=1), normal(50, 64, seed=2).double(), normal(64, 50, seed=3).T, normal(50, 64).half()]
    tensor = TensorGradients(grads, tier_indices(normal(3200), 0.1))
    assert tier_sums_numba([tensor]) == pytest.approx(tier_sums_numpy(tensor), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_share_the_work_and_change_no_sum(monkeypatch, threads):
    monkeypatch.setattr(with_numba, "PER_THREAD", 1)
    sizes = [(40, 3), (70_001, 3), (2048, 2), (1, 5), (4096, 1), (100_000, 4)]
    tensors = [
        TensorGradients([normal(size, seed=e) for e in range(experts)], tier_indices(normal(size, seed=9), 0.1))
        for size, experts in sizes
    ]
    for one, several in zip(tier_sums_numba(tensors), tier_sums_numba(tensors, threads), strict=True):
        assert several == pytest.approx(one, rel=1e-12)


def test_float32_sums_that_lose_digits_are_made_again_in_float64_alone(monkeypatch):
    runs = []
    real = compiled.sum_tiers
    monkeypatch.setattr(compiled, "sum_tiers", lambda *work: runs.append(len(work[0])) or real(*work))
    size = 3 * with_numba.EXACT
    grads = [normal(size, seed=1), 1e-25 * normal(size, seed=2), 1e25 * normal(size, seed=3)]
    tensor = TensorGradients(grads, tier_indices(normal(size), 0.1))
    found = tier_sums_numba([tensor])
    assert runs == [1, 2]
    assert found == pytest.approx(tier_sums_numpy(tensor), rel=1e-6)


@pytest.fixture
def unprepared():
    prepare.cache_clear()
    yield
    prepare.cache_clear()


def test_the_way_is_told_with_its_threads(unprepared):
    assert "compiled code (numba" in prepare().message
    assert " thread" in prepare().message


def test_a_variable_of_the_environment_chooses_numpy(unprepared, monkeypatch):
    monkeypatch.setenv(SWITCH, "numpy")
    assert prepare().message == "gradients are summed by numpy, as PRISMATIC_MEASURE says"


def test_without_numba_the_file_says_how_to_get_it(unprepared, monkeypatch):
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    assert 'pip install "prismatic-dynamics[fast]"' in prepare().message
    assert prepare().sums is choice._by_numpy


def test_a_compiler_that_fails_or_errs_leaves_the_work_to_numpy_with_a_warning(unprepared, monkeypatch):
    monkeypatch.setattr(with_numba, "tier_sums_numba", lambda tensors: np.zeros((2 * len(tensors), 5)))
    with pytest.warns(match="its sums differ from those of numpy"):
        assert "summed by numpy" in prepare().message
    prepare.cache_clear()
    monkeypatch.setitem(sys.modules, "prismatic.measure.kernels.with_numba", None)
    with pytest.warns(match="numba cannot be used"):
        assert prepare().sums is choice._by_numpy


def test_the_threads_are_those_that_a_measurement_finds_worth_it(monkeypatch):
    monkeypatch.setattr(choice, "TRIED", 1)
    seconds = {1: 8.0, 2: 4.0, 4: 2.5, 8: 2.4, 16: 2.3}
    now = iter(np.cumsum([0.0, *(taken for count in seconds for _ in range(3) for taken in (seconds[count], 0.0))]))
    monkeypatch.setattr(choice.time, "perf_counter", lambda: next(now))
    assert choice._threads(lambda tensors, count: None, 16) == (4, " (3.2 times as fast as one)")
    assert choice._threads(lambda tensors, count: None, 1) == (1, "")


def a_layer() -> Prismatic:
    torch.manual_seed(0)
    layer = Prismatic(nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8)), hidden_size=8)
    layer(torch.randn(2, 3, 8)).square().mean().backward()
    return layer


def test_a_plan_is_made_again_when_a_parameter_is_exchanged():
    layer = a_layer()
    before = Plan.of(layer)
    assert Plan.of(layer) is before
    own = layer.experts[1][0]
    own.weight = nn.Parameter(own.weight.detach().clone())
    own.weight.grad = torch.ones_like(own.weight)
    assert Plan.of(layer) is not before
    grads = torch.cat([p.grad.flatten() for p in layer.experts[1].parameters()])
    assert measure([layer])[0][1].norm == pytest.approx(float(grads.double().norm()), rel=1e-6)


def test_a_plan_is_made_again_when_a_module_is_exchanged():
    layer = a_layer()
    before = Plan.of(layer)
    layer.experts[1][2] = nn.Linear(64, 8)  # of the same shapes, at the same place
    assert Plan.of(layer) is not before
    assert Plan.of(layer) is Plan.of(layer)


CHANGES = {
    "as before": lambda grad: grad.clone(),
    "of another type": lambda grad: grad.double(),
    "beside others": lambda grad: torch.stack([grad, grad], dim=-1)[..., 0],
    "missing": lambda grad: None,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_prepared_for_a_step_fits_the_gradients_of_the_next(change):
    layer = a_layer()
    measure([layer])  # prepares
    own = layer.experts[1][0].weight
    changed = change(3 * own.grad)
    grad_of = {p: changed if p is own else p.grad for p in layer.parameters()}
    found = measure([layer], grad_of.get)[0][1]
    whole = [grad for p in layer.experts[1].parameters() if (grad := grad_of[p]) is not None]
    assert found.norm == pytest.approx(float(torch.cat([grad.double().flatten() for grad in whole]).norm()), rel=1e-6)
    assert found.missing_gradients == (changed is None)


def test_tiers_that_are_ranked_again_are_read_again():
    layer = a_layer()
    measure([layer])
    with torch.no_grad():
        layer.experts[0][0].weight.copy_(normal(64, 8, seed=5))
    layer.tiers.rank(dict(layer.experts[0].named_parameters()), 0.2)
    top = sum(p.grad.flatten()[layer.tiers[name].top].square().sum() for name, p in layer.experts[0].named_parameters())
    assert measure([layer])[0][0].top_norm == pytest.approx(float(top) ** 0.5, rel=1e-6)


def test_tiers_take_a_quarter_byte_a_weight_where_no_model_saves_them():
    weights = {"w": normal(4000), "norm": torch.ones(8)}
    tiers, indices = TierIndices.of(weights, 0.1, saved=False), TierIndices.of(weights, 0.1)
    planes = tiers.planes("w", 4000)
    assert sum(buffer.nbytes for buffer in tiers.buffers()) == planes.top.nbytes + planes.bottom.nbytes == 1000
    assert tiers.hashes() == indices.hashes()
    assert tiers.sizes(4008) == indices.sizes(4008)
    for name in weights:
        for found, known in zip(tiers[name], indices[name], strict=True):
            assert torch.equal(found, known)
            assert found.dtype == torch.int64
    assert not tiers.state_dict()


def test_a_checkpoint_with_indices_of_eight_bytes_is_loaded():
    tiers, others = (TierIndices.of({"w": normal(4000, seed=seed)}, 0.1) for seed in (0, 1))
    others.planes("w", 4000)
    others.load_state_dict({name: indices.long() for name, indices in tiers.state_dict().items()})
    assert others.hashes() == tiers.hashes()
    assert torch.equal(others.planes("w", 4000).top, tiers.planes("w", 4000).top)
