"""A matrix as it lies in memory, ready to be multiplied with."""

from functools import cached_property

import numpy as np

from tpi_mpi.kernels.formats import Tiled


class Operand:
    """The parts of a matrix as views of a buffer, which lasts as long as any of them.

    layout: what the parts are; see :class:`Tiled`. parts: arrays in the shapes and types of ``layout.parts``.
    """

    def __init__(self, layout: Tiled, parts: list[np.ndarray]):
        self.layout = layout
        self.parts = parts

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (outputs) and columns (inputs), without padding."""
        return self.layout.shape

    @property
    def nbytes(self) -> int:
        return self.layout.nbytes

    @cached_property
    def arguments(self) -> np.ndarray:
        """What kernels need to know of it; see :mod:`tpi_mpi.kernels.compiled.product`."""
        first, *others = self.parts
        addresses = [part.ctypes.data for part in others] + [0, 0]
        of_tile = others[0].nbytes // self.layout.tiles if others else 0
        step = of_tile // self.layout.groups if self.layout.format.group else 0
        weights = first.nbytes // self.layout.tiles
        return np.array([first.ctypes.data, *addresses[:2], weights, of_tile, step], np.int64)

    @classmethod
    def of(cls, layout: Tiled, buffer, offsets: tuple[int, ...]) -> "Operand":
        """Views of a buffer in which each part begins at one of the ``offsets``, in bytes."""
        parts = []
        for part, offset in zip(layout.parts, offsets, strict=True):
            count = part.nbytes // np.dtype(part.dtype).itemsize
            parts.append(np.frombuffer(buffer, part.dtype, count, offset).reshape(part.shape))
        return cls(layout, parts)
