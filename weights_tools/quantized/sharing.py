"""Which weights share a scale."""

from dataclasses import dataclass

import numpy as np

from weights_tools.tensors.stored import Loaded, Stored


@dataclass(frozen=True)
class Sharing:
    """Rectangles of ``rows`` x ``columns`` weights; 0 stands for all of that axis."""

    rows: int
    columns: int

    @classmethod
    def group(cls, columns: int) -> "Sharing":
        """Inputs of one output."""
        return cls(1, columns)

    def grid(self, shape: tuple[int, int]) -> tuple[int, int]:
        """How many rectangles there are from top to bottom, and from left to right."""
        rows, columns = shape
        return -(-rows // (self.rows or rows)), -(-columns // (self.columns or columns))


@dataclass(frozen=True)
class RowScales:
    """Scales that lie in rows, as a matrix does. stored: the grid of a :class:`Sharing`, whose ``rows`` are given."""

    stored: Stored
    rows: int

    def load(self) -> Loaded:
        return self._rows if self.rows else self._row

    def _rows(self, start: int, stop: int) -> np.ndarray:
        first = start // self.rows
        scales = self.stored.floats(first, -(-stop // self.rows))
        return scales.reshape(len(scales), -1)[np.arange(start, stop) // self.rows - first]

    def _row(self, start: int, stop: int) -> np.ndarray:
        """The same scales for every row."""
        scales = self.stored.floats().reshape(1, -1)
        return np.broadcast_to(scales, (stop - start, scales.shape[1]))
