"""A matrix that a checkpoint holds as codes with scales."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from tpi_mpi.kernels.formats import GROUPS, SCALES, WHOLE_ROW, Format
from tpi_mpi.kernels.packing import INT4_ZERO, Rows, dequantize
from weights_tools.common.pieces import rows_at_once
from weights_tools.tensors.stored import Loaded

_LARGEST_GROUP = max(GROUPS)
# The zero points that a format without zero points stands for.
_NEUTRAL = {"int4": INT4_ZERO, "int8": 0}
# The dtype of scales where a format leaves no choice.
_SCALES = {"float8": "float32", "mxfp4": "e8m0"}
_UNPACKED = Format("float32")


class Field(Protocol):
    """One of the things that a matrix consists of."""

    def load(self) -> Loaded:
        """Reads what has to be in memory to give rows, at most one tensor."""


@dataclass(frozen=True, eq=False)
class QuantizedMatrix:
    """Codes, scales and zero points that may lie in any order in the checkpoint, given in rows of outputs.

    name: of the weight that they stand for. shape: (outputs, inputs).
    tensors: the names of those of the checkpoint that are consumed.
    dtype: int4, int8, float8 or mxfp4.
    codes: gives one code a byte (n, inputs), as :class:`Rows` has them.
    scales, zero_points: give (n, groups): float16, float32 or, of mxfp4, e8m0; zero points count as the codes do.
    group: consecutive inputs that share a scale, any number; :data:`WHOLE_ROW` for all.
    group_of: (inputs,), the group of each input where they are not consecutive.
    """

    name: str
    shape: tuple[int, int]
    tensors: tuple[str, ...]
    dtype: str
    codes: Field
    scales: Field
    zero_points: Field | None
    group: int
    group_of: np.ndarray | None = None

    @property
    def why_not(self) -> str:
        """Why the matrix cannot be kept as it is; empty if it can."""
        if self.group_of is not None:
            return "its groups follow g_idx (desc_act) and are not consecutive inputs"
        if self.group not in (WHOLE_ROW, *GROUPS) and self.group % _LARGEST_GROUP:
            several = ", ".join(map(str, GROUPS))
            return f"its groups have {self.group} inputs, which is neither {several} nor a multiple of {_LARGEST_GROUP}"
        return ""

    @cached_property
    def format(self) -> Format:
        """The format that holds the matrix exactly; float32 where no packed one does.

        Reads the zero points, and scales that are not float16, when it is first asked for.
        """
        if self.why_not:
            return _UNPACKED
        scales = _SCALES.get(self.dtype) or ("float16" if self._scales_fit_float16() else "float32")
        return Format(self.dtype, min(self.group, _LARGEST_GROUP), scales, self._has_zero_points())

    def pieces(self, start: int, stop: int) -> Iterator[Rows]:
        """The rows from ``start`` up to ``stop`` in the matrix's format, some at a time."""
        if not self.format.packed:
            yield from self.dequantized(start, stop)
            return
        for rows in self._native(start, stop):
            yield self._kept(rows)

    def dequantized(self, start: int, stop: int) -> Iterator[Rows]:
        """The same rows as float32, multiplied in float32."""
        group = self.group if self.group_of is None else 1
        format = Format(self.dtype, group, _SCALES.get(self.dtype, "float32"), self.zero_points is not None)
        for rows in self._native(start, stop):
            yield Rows(dequantize(rows if self.group_of is None else self._in_order(rows), format))

    def _native(self, start: int, stop: int) -> Iterator[Rows]:
        """Rows with the groups of the checkpoint."""
        fields = (self.codes, self.scales, self.zero_points)
        codes, scales, zero_points = (None if field is None else field.load() for field in fields)
        step = rows_at_once(self.shape[1])
        for first in range(start, stop, step):
            last = min(first + step, stop)
            zeros = None if zero_points is None else zero_points(first, last)
            yield Rows(codes(first, last), scales(first, last), zeros)

    def _kept(self, rows: Rows) -> Rows:
        """Rows in the matrix's format, of rows with the checkpoint's groups: larger groups repeat their scale."""
        scales = self._repeated(rows.scales).astype(SCALES[self.format.scales])
        zeros = self._repeated(rows.zero_points).astype(np.float16) if self.format.zero_points else None
        return Rows(rows.values, scales, zeros)

    def _repeated(self, array: np.ndarray) -> np.ndarray:
        if self.group <= _LARGEST_GROUP:
            return array
        return np.repeat(array, self.group // _LARGEST_GROUP, axis=1)[:, : -(-self.shape[1] // _LARGEST_GROUP)]

    def _in_order(self, rows: Rows) -> Rows:
        """Rows with a scale for each input."""
        zeros = None if rows.zero_points is None else self._of_inputs(rows.zero_points)
        return Rows(rows.values, self._of_inputs(rows.scales), zeros)

    def _of_inputs(self, array: np.ndarray) -> np.ndarray:
        """(n, inputs), of (n, groups)."""
        return array.astype(np.float32, order="C").take(self.group_of, axis=1)

    def _has_zero_points(self) -> bool:
        if self.zero_points is None:
            return False
        return bool((self.zero_points.load()(0, self.shape[0]) != _NEUTRAL[self.dtype]).any())

    def _scales_fit_float16(self) -> bool:
        scales = self.scales.load()(0, self.shape[0])
        if scales.dtype == np.float16:
            return True
        with np.errstate(over="ignore"):
            return np.array_equal(scales.astype(np.float16).astype(np.float32), scales)
