"""The tensors of a block as they lie in memory, ready to be computed with."""

from ctypes import addressof, c_char
from functools import cached_property

import numpy as np

from tpi_mpi.kernels.formats import Plain, Tiled


class Operand:
    """A matrix: its parts as views of a buffer, which lasts as long as any of them.

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
        """What kernels need to know of it; see :mod:`tpi_mpi.kernels.records.product`."""
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


class Vector:
    """A norm's weight or a bias; or the embedding, whose rows are looked up.

    layout: its shape and dtype. stored: its numbers, bfloat16 as uint16.
    """

    def __init__(self, layout: Plain, stored: np.ndarray):
        self.layout = layout
        self.stored = stored

    @cached_property
    def arguments(self) -> np.ndarray:
        """What kernels need to know of it: its address, and what its numbers are."""
        return np.array([self.stored.ctypes.data, KINDS[self.layout.dtype]], np.int64)

    @classmethod
    def of(cls, layout: Plain, buffer, offset: int) -> "Vector":
        """A view of a buffer in which it begins at an offset, in bytes."""
        return cls(layout, np.frombuffer(buffer, layout.parts[0].dtype, layout.elements, offset).reshape(layout.shape))


KINDS = {"bfloat16": 0, "float16": 1, "float32": 2}
"""What numbers are, for compiled code."""


def address_of(array: np.ndarray) -> int:
    """The address of a contiguous array that may be written to, in a third of the time that numpy's own way takes."""
    return addressof(c_char.from_buffer(array))


class Tensors(dict[str, Operand | Vector]):
    """The tensors of a block by name: matrices are operands, everything else vectors."""

    def arranged(self, names: tuple[str | None, ...]) -> "Arranged":
        """Those with some names, in that order; there is none with the name None. Remembered by the names' identity."""
        if self._arranged is None:
            self._arranged = {}
        found = self._arranged.get(id(names))
        if found is None:
            found = self._arranged[id(names)] = Arranged([self.get(name) for name in names])
        return found

    _arranged: "dict[int, Arranged] | None" = None


class Arranged:
    """Some tensors in an order that kernels know.

    tensors: None where the block has none. layouts: of the tensors, by identity. address: of a table of the addresses
        of their arguments, 0 where there is none.
    """

    def __init__(self, tensors: list[Operand | Vector | None]):
        self.tensors = tensors
        self.layouts = tuple(id(tensor and tensor.layout) for tensor in tensors)
        self._table = np.array([tensor.arguments.ctypes.data if tensor else 0 for tensor in tensors], np.int64)
        self.address = self._table.ctypes.data
