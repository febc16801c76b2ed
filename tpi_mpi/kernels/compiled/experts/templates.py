"""Jobs without addresses: what is the same for all experts that lie in memory in the same way."""

from collections.abc import Callable

import numpy as np

from tpi_mpi.kernels.compiled.functions import order_of, product_of
from tpi_mpi.kernels.compiled.prepared import Product, prepared, result_step
from tpi_mpi.kernels.cpu import Cpu
from tpi_mpi.kernels.experts.record import ExpertRecord
from tpi_mpi.kernels.formats import Plain, Tiled
from tpi_mpi.kernels.operand import KINDS
from tpi_mpi.kernels.records import block, job
from tpi_mpi.kernels.records import product as record
from tpi_mpi.kernels.table import STATE_BYTES, Kernel


class Templates:
    """Templates of all records so far.

    table: int64 (records, JOB).
    results_bytes: of gates and of what goes up, for a row, at most. ordered_bytes: of states in order.
    """

    def __init__(self, choose: Callable[[Tiled], Kernel], cpu: Cpu, activation: dict[str, int]):
        self._choose, self._cpu, self._activation = choose, cpu, activation
        self._places: dict[int, int] = {}
        self._records: list[ExpertRecord] = []  # which are found by their identity
        self.table = np.zeros((0, job.JOB), np.int64)
        self.results_bytes = self.ordered_bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def place(self, own: ExpertRecord) -> int:
        """Where the table has the template for a record."""
        place = self._places.get(id(own))
        if place is None:
            place = self._places[id(own)] = len(self._records)
            self._records.append(own)
            self.table = np.concatenate([self.table, self._made(own)[None]])
        return place

    def _made(self, own: ExpertRecord) -> np.ndarray:
        gate, up, down, *biases = own.tensors
        made = np.zeros(job.JOB, np.int64)
        for name, value in self._activation.items():
            made[getattr(block, name.upper())] = value
        steps = result_step(gate), result_step(up)
        made[block.COLUMNS], made[block.PRODUCTS_STEP], made[block.SECOND_STEP] = down.columns, *steps
        for index, layout in enumerate((gate, up, down)):
            place = job.MATRIX + index * record.MATRIX_ARGUMENTS
            made[place : place + record.MATRIX_ARGUMENTS] = _matrix(layout, own.offsets[index])
        for index, layout in enumerate(biases):
            place = job.VECTOR + 2 * index
            made[place : place + 2] = _vector(layout, own.offsets[job.MATRICES + index])
        projected = prepared(self._choose, self._cpu, 1, 1, (gate, up), (block.GATE, block.UP))
        (output,) = prepared(self._choose, self._cpu, 1, 1, (down,), (block.DOWN,))
        for number, product in [*enumerate(projected), (job.LAST, output)]:
            _put_product(made[job.PRODUCT + number * job.PRODUCT_NUMBERS :][: job.PRODUCT_NUMBERS], product)
        self.results_bytes = max(self.results_bytes, sum(steps))
        self.ordered_bytes = max(self.ordered_bytes, *(_ordered_bytes(product) for product in (*projected, output)))
        return made


def _matrix(layout: Tiled, offsets: tuple[int, ...]) -> list[int]:
    """The arguments of a matrix; see :attr:`tpi_mpi.kernels.operand.Operand.arguments`."""
    weights, *others = (part.nbytes // layout.tiles for part in layout.parts)
    of_tile = others[0] if others else 0
    step = of_tile // layout.groups if layout.format.group else 0
    return [*(*offsets, 0, 0)[:3], weights, of_tile, step]


def _vector(layout: Plain | None, offsets: tuple[int, ...]) -> tuple[int, int]:
    return (offsets[0], KINDS[layout.dtype]) if layout else (0, job.NONE)


def _put_product(own: np.ndarray, product: Product) -> None:
    """Puts a product's arguments, and what follows them, into its place in a template."""
    for operand, layout in enumerate(product.layouts):
        product.arguments[record.ARGUMENTS + operand * record.OPERAND_ARGUMENTS + record.OUT_STEP] = result_step(layout)
    own[: len(product.arguments)] = product.arguments
    first, kernel = product.layouts[0], product.kernel
    own[job.ORDER], own[job.MULTIPLY] = order_of(kernel).address, product_of(kernel).address
    own[job.TILES] = sum(layout.tiles for layout in product.layouts)
    own[job.TILE_BYTES] = first.nbytes // first.tiles
    own[job.STATES_BYTES] = STATE_BYTES[kernel.kind] * kernel.planes * first.inputs


def _ordered_bytes(product: Product) -> int:
    """Of a row of states in order, with its steps, offsets and sums."""
    a, kernel = product.arguments, product.kernel
    of_states = STATE_BYTES[kernel.kind] * kernel.planes * product.layouts[0].inputs
    return of_states + 4 * int(a[record.GROUPS]) * (2 + kernel.planes)
