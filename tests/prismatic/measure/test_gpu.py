"""Sums on a GPU, by Triton and by torch, compared to those of a CPU; `make gpu` runs it where there is one."""

import pytest
import torch

from prismatic.experts.discovery import find_routers
from prismatic.experts.tiers import Tiers, tier_indices
from prismatic.measure.gradients import measure
from prismatic.measure.kernels import TensorGradients, prepare_gpu
from prismatic.measure.kernels.on_gpu import sums_on_gpu
from prismatic.measure.kernels.self_test import agree
from prismatic.measure.kernels.with_numba import tier_sums_numba
from prismatic.measure.kernels.with_numpy import tier_sums_numpy
from prismatic.measure.kernels.with_torch import tier_sums_torch
from prismatic.train.config import RunConfig
from prismatic.train.model import ByteLM
from tests.prismatic.measure.test_compiled import KINDS, normal, stacked
from tests.prismatic.measure.test_kernels import assert_same, drawn


def by_torch(tensors):
    return [tier_sums_torch(tensor) for tensor in tensors]


def test_torch_operations_agree_with_numpy_in_every_type_and_layout():
    assert agree(by_torch)


def test_a_device_without_triton_is_told():
    assert prepare_gpu(torch.device("meta")).message == "gradients on meta are summed by torch operations"


def test_sums_on_devices_keep_their_order():
    tensors = [drawn(size, seed=size, experts=2) for size in (30, 7, 500)]
    for found, tensor in zip(sums_on_gpu(tensors), tensors, strict=True):
        assert_same(found.numpy(), tier_sums_numpy(tensor))
    assert sums_on_gpu([]) == []


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@on_gpu
def test_a_gpu_with_triton_uses_it():
    assert "summed by Triton" in prepare_gpu(torch.device("cuda:0")).message


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_parts_of_a_gradient_are_those_of_a_cpu(kind, dtype):
    grads = stacked(kind, dtype)
    tiers = tier_indices(normal(grads[0].numel(), seed=2), 0.1)
    there = Tiers(*(indices.cuda() for indices in tiers))
    found = prepare_gpu(torch.device("cuda:0")).sums([TensorGradients([grad.cuda() for grad in grads], there)])
    assert_same(found[0].cpu().numpy(), tier_sums_numpy(TensorGradients(grads, tiers)))


@on_gpu
def test_compiled_code_reads_tiers_and_gradients_that_lie_on_a_gpu_from_copies():
    tensor = drawn(5000)
    there = Tiers(*(indices.cuda() for indices in tensor.tiers))
    grads = [tensor.gradients[0], *(grad.cuda() for grad in tensor.gradients[1:])]
    assert_same(tier_sums_numba([TensorGradients(grads, there)]), tier_sums_numpy(tensor))


@on_gpu
def test_a_model_is_measured_as_on_a_cpu_and_waits_for_the_device_once():
    torch.manual_seed(0)
    model = ByteLM(RunConfig(hidden_size=64, num_layers=2, sequence_length=32, batch_size=2))
    model.loss(torch.randint(0, 256, (2, 33))).backward()
    here = measure(find_routers(model))
    model.cuda()
    routers = find_routers(model)
    measure(routers)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as warned:
            there = measure(routers)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(warned) == 1
    pairs = [pair for layers in zip(here, there, strict=True) for pair in zip(*layers, strict=True)]
    for own, other in pairs:
        assert (other.top_norm, other.norm) == pytest.approx((own.top_norm, own.norm), rel=1e-6)


@on_gpu
def test_a_measurement_takes_little_memory_beside_the_gradients():
    grads = torch.randn(8, 16_000_000, device="cuda")
    tensor = TensorGradients(list(grads), Tiers.none())
    sums = prepare_gpu(grads.device).sums
    sums([tensor])
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    sums([tensor])
    assert torch.cuda.max_memory_allocated() - before < 0.02 * grads.nbytes
