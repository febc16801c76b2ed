"""Products prepared: all that kernels need to know of one, but the addresses that each call brings."""

from collections.abc import Callable, Sequence

import numpy as np

from tpi_mpi.kernels.compiled.functions import order_of, product_of
from tpi_mpi.kernels.cpu import Cpu
from tpi_mpi.kernels.formats import TILE, Tiled
from tpi_mpi.kernels.records import product as record
from tpi_mpi.kernels.records.product import ARGUMENTS, OPERAND_ARGUMENTS
from tpi_mpi.kernels.table import INTEGER, STATE_BYTES, Kernel, code_offset

# Bytes of weights that a thread claims at a time, at most: smaller pieces are read less fast, for larger ones there is
# longer to wait at the end. And the pieces that there are for each thread, at least.
_CHUNK, _PIECES = 160 * 1024, 3
_LINE = 64

Step = tuple[int, int, int, int]
"""A kernel's address, that of its arguments, items of work, and how many of them a thread claims at a time."""


class Scratch:
    """Memory for whatever is computed at the moment; it grows to what the largest computation needs.

    version: changes when the memory moves, so that addresses in it are no longer good.
    """

    def __init__(self):
        self._memory = np.zeros(_LINE, np.uint8)
        self.version = 0

    def rooms(self, sizes: Sequence[int]) -> list[int]:
        """The addresses of rooms with these sizes in bytes, from the beginning on; each begins a cache line."""
        places = np.cumsum([0, *map(aligned, sizes)])
        if len(self._memory) < places[-1] + _LINE:
            self._memory = np.empty(int(places[-1]) + _LINE, np.uint8)
            self._memory.fill(0)  # so that it is resident, and counts, from now on
            self.version += 1
        start = aligned(self._memory.ctypes.data)
        return [start + int(place) for place in places[:-1]]


def aligned(size: int) -> int:
    """The same size or address, rounded up to a cache line."""
    return -(-size // _LINE) * _LINE


class Product:
    """A number of rows of states times matrices that are alike, as steps for :data:`.functions.EXECUTE`.

    slots: where the table of tensors has the matrices. threads: that share the work.
    """

    def __init__(
        self, kernel: Kernel, cpu: Cpu, threads: int, rows: int, layouts: Sequence[Tiled], slots: Sequence[int]
    ):
        self.kernel, self.layouts, self._threads = kernel, layouts, threads
        first = layouts[0]
        self._groups = first.inputs // kernel.group if kernel.kind == INTEGER else 0
        self._packs = -(-rows // kernel.height)
        self.padded_rows = self._packs * kernel.height if rows > 1 else 1
        self.arguments = a = np.zeros(ARGUMENTS + len(layouts) * OPERAND_ARGUMENTS, np.int64)
        offset = code_offset(kernel.dtype, kernel.zero_points, cpu) if self._groups else 0
        a[record.ROWS : record.INPUTS + 1] = rows, first.columns, first.lead, first.inputs
        a[record.HEIGHT : record.CODE_OFFSET + 1] = kernel.height, kernel.group, self._groups, kernel.planes, offset
        a[record.OPERANDS] = len(layouts)
        self._tiles = 0
        for place, slot, layout in zip(self._places(), slots, layouts, strict=True):
            a[place + record.SLOT], a[place + record.TILES_BEFORE] = slot, self._tiles
            self._tiles += layout.tiles

    def _places(self) -> range:
        return range(ARGUMENTS, len(self.arguments), OPERAND_ARGUMENTS)

    def _order_sizes(self) -> list[int]:
        """Bytes of the ordered states, and of their steps, offsets and sums."""
        kernel, rows, inputs = self.kernel, self._packs * self.kernel.height, self.layouts[0].inputs
        of_states = STATE_BYTES[kernel.kind] * kernel.planes * inputs
        sizes = of_states, 4 * self._groups, 4 * self._groups * kernel.planes, 4 * self._groups
        return [aligned(rows * size) for size in sizes]

    @property
    def order_bytes(self) -> int:
        """Scratch memory for the states."""
        return sum(self._order_sizes())

    @property
    def result_bytes(self) -> list[int]:
        """The size of each matrix's results: float32, :attr:`padded_rows` of :meth:`result_step` bytes."""
        return [self.padded_rows * result_step(layout) for layout in self.layouts]

    def place(self, states_address: int, states_step: int, table: int, order: int, results: Sequence[int]) -> None:
        """Says where everything is.

        states_step: bytes from one row of states to the next. table: address of the address of the table of tensors.
        order: address of :attr:`order_bytes`. results: addresses of each matrix's results.
        """
        a = self.arguments
        a[record.STATES], a[record.STATES_STEP], a[record.TABLE] = states_address, states_step, table
        a[record.ORDERED : record.SUMS + 1] = order + np.cumsum([0, *self._order_sizes()])[:-1]
        for at, address, layout in zip(self._places(), results, self.layouts, strict=True):
            a[at + record.OUT], a[at + record.OUT_STEP] = address, result_step(layout)

    def steps(self) -> list[Step]:
        first, address = self.layouts[0], self.arguments.ctypes.data
        together = 1
        if self._packs == 1:
            fitting = _CHUNK // (first.parts[0].nbytes // first.tiles)
            together = max(1, min(fitting, self._tiles // (_PIECES * self._threads)))
        return [
            (order_of(self.kernel).address, address, self._packs, 1 if self._packs > 2 else self._packs),
            (product_of(self.kernel).address, address, self._tiles, together),
        ]


def result_step(layout: Tiled) -> int:
    """Bytes of a row of results."""
    return 4 * TILE * layout.tiles


def prepared(
    choose: Callable[[Tiled], Kernel], cpu: Cpu, threads: int, rows: int, layouts: Sequence[Tiled], slots: Sequence[int]
) -> list[Product]:
    """Products of the same states with several matrices: as few as there are different kinds side by side.

    choose: says which kernel multiplies with a matrix. slots: where the table of tensors has the matrices.
    """
    kinds: list[list[tuple[Tiled, int]]] = []
    for layout, slot in zip(layouts, slots, strict=True):
        if not kinds or not alike(kinds[-1][-1][0], layout):
            kinds.append([])
        kinds[-1].append((layout, slot))
    return [Product(choose(some[0][0]), cpu, threads, rows, *map(list, zip(*some, strict=True))) for some in kinds]


def alike(one: Tiled, other: Tiled) -> bool:
    """Whether the same ordered states can be multiplied with both."""
    return (one.format, one.lead, one.columns) == (other.format, other.lead, other.columns)
