"""What of a tensor of all experts is one expert's: read without the others."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from tpi_mpi.kernels.packing import Rows
from weights_tools.common.pieces import rows_at_once
from weights_tools.tensors.stored import Stored


@dataclass(frozen=True)
class Slice(Stored):
    """Rows of an expert.

    name: of the tensor of all of them. offset: of the expert's first number. lengths: the expert's axes, as stored.
    transposed: whether its rows are the last of these axes. first, step: which of the rows the slice consists of.
    """

    lengths: tuple[int, ...]
    transposed: bool
    first: int
    step: int

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        low, high, _ = slice(start, stop).indices(self.shape[0])
        expert = Stored(self.name, self.path, self.dtype, self.lengths, self.offset)
        low, high = (self.first + row * self.step for row in (low, high))
        rows = expert.read().T[low:high] if self.transposed else expert.read(low, high)
        return np.ascontiguousarray(rows[:: self.step])

    def pieces(self, start: int, stop: int) -> Iterator[Rows]:
        """Transposed ones are read once, all together: any of their rows is spread over the whole expert."""
        if not self.transposed:
            yield from super().pieces(start, stop)
            return
        numbers = self.read(start, stop)
        step = rows_at_once(prod(self.shape[1:]))
        for first in range(0, len(numbers), step):
            yield Rows(numbers[first : first + step])


def slice_of(stored: Stored, expert: int, transposed: bool = False, first: int = 0, step: int = 1) -> Slice:
    """The rows of one expert from ``first`` on, each ``step`` after the other, of a tensor of all of them."""
    lengths = stored.shape[1:]
    rows, *others = reversed(lengths) if transposed else lengths
    return Slice(
        name=stored.name,
        path=stored.path,
        dtype=stored.dtype,
        shape=(len(range(first, rows, step)), *others),
        offset=stored.offset + expert * prod(lengths) * stored.itemsize,
        lengths=lengths,
        transposed=transposed,
        first=first,
        step=step,
    )
