"""The Triton kernel in Triton's interpreter, which needs no GPU, compared to obvious sums; `make clients` runs it."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from prismatic.errors import ModelError
from prismatic.experts.tiers import Tiers, tier_indices
from prismatic.measure.kernels import SUMS, TensorGradients
from tests.prismatic.measure.test_compiled import KINDS, normal, stacked
from tests.prismatic.measure.test_kernels import assert_same, drawn, obvious
from tests.support.source_tree import ROOT

if importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton is not installed, or not told to interpret", allow_module_level=True)

from prismatic.measure.kernels import with_triton
from prismatic.measure.kernels.with_triton import tier_sums_triton

pytestmark = pytest.mark.long  # an interpreted kernel takes seconds
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def small_spans(monkeypatch):
    monkeypatch.setattr(with_triton, "BLOCK", 64)
    monkeypatch.setattr(with_triton, "TURNS", 4)


def by_triton(tensor):
    return tier_sums_triton([tensor])[0].numpy()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weights", [1, 7, 255, 256, 257, 1500])
def test_sums_are_the_obvious_ones_at_every_size_and_in_every_type(weights, dtype):
    tensor = drawn(weights, dtype=dtype)
    assert_same(by_triton(tensor), obvious(tensor), rel=1e-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_gradient_of_all_experts_is_summed_where_it_lies(kind, dtype):
    grads = [grad[:32, :32] if "beside" not in kind else grad for grad in stacked(kind, dtype)]
    tensor = TensorGradients(grads, tier_indices(normal(grads[0].numel(), seed=2), 0.1))
    flat = TensorGradients([grad.reshape(-1) for grad in grads], tensor.tiers)
    assert_same(by_triton(tensor), obvious(flat), rel=1e-9)


@pytest.mark.parametrize("without", [(0,), (1,), (0, 1)])
def test_an_expert_without_gradient_is_zero_and_the_others_are_right(without):
    tensor = drawn(300)
    held = TensorGradients([None if i in without else g for i, g in enumerate(tensor.gradients)], tensor.tiers)
    assert_same(by_triton(held), obvious(held), rel=1e-9)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of the interpreter, which uses numpy
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_entries_that_are_not_finite_spoil_their_own_tier_and_are_counted(bad, dtype):
    tensor = drawn(600, dtype=dtype)
    tensor.gradients[1][tensor.tiers.bottom[:3]] = bad
    sums = by_triton(tensor)
    assert not np.isfinite(sums[1, SUMS.index("bottom")])
    assert np.isfinite(sums[1, [0, 2]]).all()
    assert np.isfinite(sums[[0, 2]]).all()
    assert sums[:, -1].tolist() == [0, 3, 0]


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_very_small_and_very_large_gradients_keep_their_digits(scale):
    tensor = drawn(300, scale=scale)
    assert_same(by_triton(tensor), obvious(tensor), rel=1e-9)


def test_several_tensors_with_and_without_tiers_are_summed_with_one_list_of_addresses():
    tensors = [drawn(100), TensorGradients([normal(70), None], Tiers.none()), drawn(300, experts=5)]
    for found, tensor in zip(tier_sums_triton(tensors), tensors, strict=True):
        assert_same(found.numpy(), obvious(tensor), rel=1e-9)


def test_gradients_of_other_shapes_are_an_error_and_not_read():
    with pytest.raises(ModelError, match="the gradients of a tensor have the shape"):
        by_triton(TensorGradients([normal(40, 8), normal(10, 8)], Tiers.none()))


COMPILE = """
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from prismatic.measure.kernels.with_triton import BLOCK, KINDS, TURNS, _sum_spans as kernel

names = kernel.arg_names
for kind in KINDS.values():
    for dense, marked in ((True, True), (False, True), (True, False), (False, False)):
        plane = "*u8" if marked else "*i64"
        kinds = ["*i64", plane, plane, "*fp64", "i64", "i32", "i32", "i32", *["constexpr"] * 5]
        constants = dict(zip(names[-5:], (kind, dense, marked, BLOCK, TURNS), strict=True))
        source = ASTSource(
            fn=kernel,
            signature=dict(zip(names, kinds, strict=True)),
            constexprs={(names.index(name),): value for name, value in constants.items()},
        )
        assert compile(source, target=GPUTarget("cuda", CAPABILITY, 32)).asm["cubin"]
"""


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_for_a_gpu_without_one(capability):
    code = COMPILE.replace("CAPABILITY", str(capability))
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr[-2000:]
