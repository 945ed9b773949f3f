"""Sums over gradients: of each tier and with the clean expert, CPU and GPU; products and distances of vectors.

All ways give the same numbers and are tested against an obvious float64 version.
"""

from prismatic.measure.kernels.choice import prepare
from prismatic.measure.kernels.measure import measure_tensors
from prismatic.measure.kernels.on_gpu import prepare_gpu
from prismatic.measure.kernels.products import inner_products, square_distances, squares
from prismatic.measure.kernels.tensors import COLUMNS, SUMS, HasTiers, Sums, TensorGradients

__all__ = [
    "COLUMNS",
    "SUMS",
    "HasTiers",
    "Sums",
    "TensorGradients",
    "inner_products",
    "measure_tensors",
    "prepare",
    "prepare_gpu",
    "square_distances",
    "squares",
]
