"""Sums over gradients: of each tier and with the clean expert, CPU and GPU; products and distances of vectors.

All ways give the same numbers and are tested against an obvious float64 version.
"""

from prismatic.measure.kernels.choice import prepare
from prismatic.measure.kernels.measure import measure_tensors
from prismatic.measure.kernels.products import inner_products, square_distances
from prismatic.measure.kernels.tensors import SUMS, HasTiers, Sums, TensorGradients

__all__ = [
    "SUMS",
    "HasTiers",
    "Sums",
    "TensorGradients",
    "inner_products",
    "measure_tensors",
    "prepare",
    "square_distances",
]
