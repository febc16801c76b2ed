"""The scales that are tried for a group of numbers."""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.kernels.formats import Format
from tpi_mpi.kernels.packing import INT4_ZERO

CANDIDATES = 16
"""How many scales are tried: as many as have room in one register of 512 bits."""

SMALLEST, LARGEST = 2.0**-24, 65504.0
"""The range of the scales: float16's, down to its smallest denormal number."""


@dataclass(frozen=True)
class Candidates:
    """The candidates for the scales of groups, as the searches take them.

    first, last: the range of the codes. zero: the code of zero, where there are no zero points.
    low, high: (16,) float32; a candidate is ``low`` times the lowest weight below zero, negated, plus ``high`` times
        the highest above it. Without zero points the larger of the two magnitudes counts as the lowest, the other as 0.
    """

    zero_points: bool
    first: np.float32
    last: np.float32
    zero: np.float32
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, format: Format) -> "Candidates":
        """Steps that measured best; docs/measurements.md has the errors by group size."""
        first, last, zero = {"int4": (0, 15, INT4_ZERO), "int8": (-128, 127, 0)}[format.dtype]
        steps = np.arange(CANDIDATES)
        if format.zero_points:  # either end of the range comes in by up to three steps
            step = {"int4": 1 / 30, "int8": 1 / 500}[format.dtype]
            low, high = ((1 - step * taken) / (last - first) for taken in (steps % 4, steps // 4))
        else:
            low = high = 1 / (last - zero + {"int4": 0.2, "int8": 0.25}[format.dtype] * steps)
        bounds = (np.float32(bound) for bound in (first, last, zero))
        return cls(format.zero_points, *bounds, low.astype(np.float32), high.astype(np.float32))
