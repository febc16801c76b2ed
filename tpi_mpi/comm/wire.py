"""The number format of messages: float32, or narrower at the price of an error.

A rank passes even its own numbers through the wire's rounding, so that all ranks keep the same hidden states.
"""

from math import gcd
from typing import Protocol

import numpy as np

from tpi_mpi.kernels import numbers
from tpi_mpi.kernels.formats import FLOATS


class Wire(Protocol):
    """A format for float32 numbers in messages, which are uint8 and as long as :meth:`nbytes` says.

    dtype: what numbers become: bytes in groups if it is int8; see :mod:`tpi_mpi.kernels.numbers`.
    group: how many numbers are encoded together. A message may be divided only at multiples of it.
    """

    dtype: str
    group: int

    def nbytes(self, count: int) -> int:
        """Length in bytes of a message of ``count`` numbers."""

    def write(self, values: np.ndarray, message: np.ndarray) -> None:
        """Encodes float32 values of any shape into a message."""

    def read(self, message: np.ndarray, count: int) -> np.ndarray:
        """Decodes a message into float32 (count,); a view of the message where possible."""

    def copy(self, message: np.ndarray, total: np.ndarray) -> None:
        """Decodes a message into float32 (count,), which is overwritten."""

    def add(self, message: np.ndarray, total: np.ndarray) -> None:
        """Adds the numbers of a message to float32 (count,)."""


class PlainWire:
    """Each number on its own, rounded to a dtype: relative error at most 2^-8 in bfloat16, 2^-11 in float16.

    float16 ends at 65504, and larger magnitudes are clamped to that; below 6e-5 its absolute error is at most 3e-8.
    """

    group = 1
    _MOST_FLOAT16 = np.float32(65504)

    def __init__(self, dtype: str):
        self.dtype, self._stored = dtype, np.dtype(FLOATS[dtype])

    def nbytes(self, count: int) -> int:
        return count * self._stored.itemsize

    def write(self, values: np.ndarray, message: np.ndarray) -> None:
        if self.dtype == "float16":
            values = np.clip(values, -self._MOST_FLOAT16, self._MOST_FLOAT16)
        numbers.narrow(values, self.dtype, message.view(self._stored))

    def read(self, message: np.ndarray, count: int) -> np.ndarray:
        return numbers.widen(message.view(self._stored), self.dtype)

    def copy(self, message: np.ndarray, total: np.ndarray) -> None:
        numbers.widen(message.view(self._stored), self.dtype, total)

    def add(self, message: np.ndarray, total: np.ndarray) -> None:
        numbers.add(message.view(self._stored), self.dtype, total)


class ScaledWire:
    """Integers from -127 to 127 in groups of at most 128, each group preceded by its scale in float32.

    The error of a number is at most 1/254 of the largest magnitude in its group. Groups divide the rows' width, so that
    how a row is rounded does not depend on the others.
    """

    dtype = "int8"

    def __init__(self, width: int):
        self.group = gcd(width, numbers.GROUP)

    def nbytes(self, count: int) -> int:
        return numbers.scaled_bytes(count, self.group)

    def write(self, values: np.ndarray, message: np.ndarray) -> None:
        numbers.scale(values, message, self.group)

    def read(self, message: np.ndarray, count: int) -> np.ndarray:
        return numbers.unscale(message, np.empty(count, np.float32), self.group)

    def copy(self, message: np.ndarray, total: np.ndarray) -> None:
        numbers.unscale(message, total, self.group)

    def add(self, message: np.ndarray, total: np.ndarray) -> None:
        numbers.add_scaled(message, total, self.group)


def wire(name: str, width: int) -> Wire:
    """The wire that ``--wire`` calls by this name, for rows of a width."""
    return ScaledWire(width) if name == ScaledWire.dtype else PlainWire(name)
