"""Products by compiled kernels, on threads of their own."""

from collections.abc import Iterable, Sequence

import numpy as np

from tpi_mpi.kernels.blocks import Blocks, Shapes
from tpi_mpi.kernels.compiled.blocks import CompiledBlocks
from tpi_mpi.kernels.compiled.functions import EXECUTE, load, needed
from tpi_mpi.kernels.compiled.pool import Pool
from tpi_mpi.kernels.compiled.prepared import Product, Scratch, alike
from tpi_mpi.kernels.cpu import this_cpu
from tpi_mpi.kernels.formats import TILE, Tiled
from tpi_mpi.kernels.operand import Operand
from tpi_mpi.kernels.records.product import ARGUMENTS, OPERAND_ARGUMENTS, OUT, STATES
from tpi_mpi.kernels.table import Kernel, choose

# Products whose arguments are remembered; prompts of ever new lengths must not fill the memory.
_MOST_PLANS = 256


class _Standalone:
    """A product on its own, with its table."""

    def __init__(self, own: Product, scratch: Scratch):
        self.layouts = own.layouts  # whose identity it is found by
        self._product = own
        self.record, self.table = np.zeros(1, np.int64), np.zeros(len(own.layouts), np.int64)
        self.record[0] = self.table.ctypes.data
        step = 4 * own.layouts[0].columns
        own.place(0, step, self.record.ctypes.data, *scratch.rooms([own.order_bytes]), [0] * len(own.layouts))
        self._steps = np.array(own.steps(), np.int64)
        self._shapes = [(own.padded_rows, TILE * layout.tiles) for layout in own.layouts]

    def run(self, control: int, rows: np.ndarray, operands: Sequence[Operand]) -> list[np.ndarray]:
        arguments, results = self._product.arguments, []
        arguments[STATES] = rows.ctypes.data
        for index, (operand, shape) in enumerate(zip(operands, self._shapes, strict=True)):
            result = np.empty(shape, np.float32)
            self.table[index] = operand.arguments.ctypes.data
            arguments[ARGUMENTS + index * OPERAND_ARGUMENTS + OUT] = result.ctypes.data
            results.append(result)
        EXECUTE.call(control, self._steps.ctypes.data, len(self._steps))
        return [result[: len(rows), : layout.rows] for result, layout in zip(results, self.layouts, strict=True)]


class Multiplier:
    """Multiplies states with operands. A context manager, which owns the threads.

    Only one thread may use it at a time.

    threads: that compute, the caller's included. planes: bytes of a state where weights are multiplied as integers: 2
        for results as good as exact ones, 1 for speed.
    """

    def __init__(self, threads: int, planes: int):
        self.threads = threads
        self.pool = Pool(threads)
        self.cpu = this_cpu()
        self.scratch = Scratch()
        self._planes = planes
        self._plans: dict[tuple, _Standalone] = {}
        self._version = 0

    def __enter__(self) -> "Multiplier":
        return self

    def __exit__(self, *exception) -> None:
        self.pool.close()

    def adapt(self) -> None:
        self.pool.adapt()

    def blocks(self, shapes: Shapes) -> Blocks:
        return CompiledBlocks(self.pool, self.scratch, self.kernel, self.cpu, shapes)

    def kernel(self, layout: Tiled) -> Kernel:
        """The kernel that multiplies with a matrix."""
        return choose(layout, self._planes, self.cpu)

    def prepare(self, layouts: Iterable[Tiled]) -> None:
        load(needed(layouts, self._planes))

    def describe(self, layouts: Iterable[Tiled]) -> list[str]:
        return [f"{self.cpu.name}: {kernel}" for kernel in self._kernels(layouts)]

    def _kernels(self, layouts: Iterable[Tiled]) -> list[Kernel]:
        return list({self.kernel(layout): None for layout in layouts})

    def __call__(self, rows: np.ndarray, operand: Operand) -> np.ndarray:
        return self.several(rows, (operand,))[0]

    def several(self, rows: np.ndarray, operands: Sequence[Operand]) -> list[np.ndarray]:
        if not all(alike(operands[0].layout, operand.layout) for operand in operands):
            return [self(rows, operand) for operand in operands]
        rows = np.ascontiguousarray(rows)
        key = (rows.shape, rows.dtype, *[id(operand.layout) for operand in operands])
        plan = self._plans.get(key) if self._version == self.scratch.version else None
        plan = plan or self._planned(key, [operand.layout for operand in operands])
        return plan.run(self.pool.control, rows, operands)

    def _planned(self, key: tuple, layouts: Sequence[Tiled]) -> _Standalone:
        (rows, width), dtype = key[:2]
        assert dtype == np.float32, f"states are {dtype}, not float32"
        assert {layout.columns for layout in layouts} == {width}, f"states of {width} inputs for {layouts}"
        kernel = self.kernel(layouts[0])
        own = Product(kernel, self.cpu, self.threads, rows, layouts, range(len(layouts)))
        plan = _Standalone(own, self.scratch)
        if len(self._plans) >= _MOST_PLANS or self._version != self.scratch.version:
            self._plans.clear()
        self._version = self.scratch.version
        self._plans[key] = plan
        return plan
