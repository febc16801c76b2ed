"""Random weights with a standard deviation of about 0.02, in any format: a long sequence of which matrices are cuts."""

from functools import cache

import numpy as np
import torch

from tpi_mpi.kernels.formats import SCALES, STORED_AS, Format
from tpi_mpi.kernels.packing import INT4_ZERO, Rows, dequantize
from weights_tools.splitting.conversion import rows_of

# All weights come from one random sequence of this length, a prime, so that no row of a matrix repeats another.
_POOL = 4194301
_DEVIATION = 0.02
# How far apart the codes of a packed format lie, in standard deviations of the weights: their scale is the deviation
# divided by this, and a power of two for mxfp4.
_CODES_A_DEVIATION = {"int8": 32.0, "int4": 2.5, "mxfp4": 1.28, "float8": 16.0}


class RandomRows:
    """Rows in one format, the same for the same seed and place."""

    def __init__(self, format: Format, seed: int):
        self.format = format
        values = np.random.default_rng(seed).standard_normal(_POOL, dtype=np.float32)
        self._pool = (
            _codes(values * _CODES_A_DEVIATION[format.dtype], format) if format.packed else self._floats(values)
        )

    def at(self, start: int, rows: int, width: int) -> Rows:
        """(rows, width), from this place of the endless sequence on."""
        start, count = start % _POOL, rows * width
        turns = -(-(start + count) // _POOL)
        values = np.tile(self._pool, turns) if turns > 1 else self._pool
        return self._rows(values[start : start + count].reshape(rows, width))

    def nearest(self, values: np.ndarray) -> Rows:
        """The rows nearest to these (rows, width), float32, in standard deviations of the weights."""
        if not self.format.packed:
            return self._rows(self._floats(values))
        return self._rows(_code_table(self.format)[np.ascontiguousarray(values).view(np.uint32) >> 16])

    def _floats(self, values: np.ndarray) -> np.ndarray:
        dtype = getattr(torch, self.format.dtype)
        return rows_of(torch.from_numpy(values * np.float32(_DEVIATION)).to(dtype)).values

    def _rows(self, values: np.ndarray) -> Rows:
        return Rows(values, *self._scales(*values.shape)) if self.format.packed else Rows(values)

    def _scales(self, rows: int, width: int) -> list[np.ndarray]:
        format = self.format
        shape = (rows, -(-width // format.group) if format.group else 1)
        scale = _DEVIATION / _CODES_A_DEVIATION[format.dtype]
        stored = 127 + np.log2(scale) if format.scales == "e8m0" else scale
        scales = [np.full(shape, stored, SCALES[format.scales])]
        return [*scales, np.full(shape, INT4_ZERO, SCALES[format.scales])] if format.zero_points else scales


@cache
def _code_table(format: Format) -> np.ndarray:
    """The codes of all numbers, in standard deviations of the weights, by the upper 16 bits of a float32."""
    numbers = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    return _codes(np.clip(np.nan_to_num(numbers), -1e3, 1e3) * _CODES_A_DEVIATION[format.dtype], format)


def _codes(values: np.ndarray, format: Format) -> np.ndarray:
    """The codes whose numbers are nearest to these."""
    every = np.arange(256 if format.dtype in ("int8", "float8") else 16, dtype=np.uint8).view(STORED_AS[format.dtype])
    one = 127 if format.scales == "e8m0" else 1
    alone = Format(format.dtype, 0, format.scales)
    numbers = dequantize(Rows(every[None], np.full((1, 1), one, SCALES[format.scales])), alone)[0]
    finite = np.flatnonzero(np.isfinite(numbers))
    codes = finite[np.argsort(numbers[finite], kind="stable")]
    between = (numbers[codes][1:] + numbers[codes][:-1]) / 2
    return every[codes[np.searchsorted(between, values)]]
