"""Products by compiled kernels, on threads of their own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tpi_mpi.kernels.compiled import product, states
from tpi_mpi.kernels.compiled import token as compiled_token
from tpi_mpi.kernels.compiled.pool import Pool
from tpi_mpi.kernels.compiled.product import OPERAND_ARGUMENTS, OUT, OUT_STEP, TILES_BEFORE
from tpi_mpi.kernels.compiled.states import ARGUMENTS
from tpi_mpi.kernels.cpu import this_cpu
from tpi_mpi.kernels.formats import TILE, Tiled
from tpi_mpi.kernels.operand import Operand
from tpi_mpi.kernels.table import INTEGER, Kernel, choose
from tpi_mpi.kernels.tiles.integer_tile import code_offset
from tpi_mpi.kernels.work import DECODE, PROMPT

# Bytes of weights that a thread claims at a time: much longer than claiming takes, much shorter than the whole.
_CHUNK = 64 * 1024
# Products whose arguments are remembered; prompts of ever new lengths must not fill the memory.
_MOST_PLANS = 256
_LINE = 64


@dataclass(frozen=True)
class _Plan:
    """A product that has been prepared: all of its arguments but the addresses that each call brings.

    layouts: of the operands; the plan is found by their identity, so they must live as long. kernel: None where the
        layouts differ too much for one kernel; the rest is then missing.
    addresses: of what orders the states, of what multiplies, and of the arguments. shapes: of the results.
    """

    layouts: Sequence[Tiled]
    kernel: Kernel | None = None
    arguments: np.ndarray | None = None
    addresses: tuple[int, int, int] = (0, 0, 0)
    packs: int = 0
    tiles: int = 0
    together: int = 0
    shapes: Sequence[tuple[int, int]] = ()


class Multiplier:
    """Multiplies states with operands. A context manager, which owns the threads.

    Only one thread may use it at a time.

    threads: that compute, the caller's included. planes: bytes of a state where weights are multiplied as integers: 2
        for results as good as exact ones, 1 for speed.
    """

    token = compiled_token

    def __init__(self, threads: int, planes: int):
        self.threads = threads
        self.pool = Pool(threads)
        self.cpu = this_cpu()
        self._planes = planes
        self._plans: dict[tuple, _Plan] = {}
        self._scratch = np.zeros(0, np.uint8)

    def __enter__(self) -> "Multiplier":
        return self

    def __exit__(self, *exception) -> None:
        self.pool.close()

    def adapt(self) -> None:
        self.pool.adapt()

    def kernel(self, layout: Tiled, work: str) -> Kernel:
        """The kernel that multiplies with a matrix, in a kind of work."""
        return choose(layout, work, self._planes, self.cpu)

    def __call__(self, rows: torch.Tensor, operand: Operand, work: str) -> torch.Tensor:
        return self.several(rows, (operand,), work)[0]

    def prepare(self, layouts: Iterable[Tiled]) -> None:
        for kernel in self._kernels(layouts):
            product.order_kernel(kernel)
            product.product_kernel(kernel)

    def describe(self, layouts: Iterable[Tiled]) -> list[str]:
        return [f"{self.cpu.name}: {kernel}" for kernel in self._kernels(layouts)]

    def _kernels(self, layouts: Iterable[Tiled]) -> list[Kernel]:
        return list({self.kernel(layout, work): None for layout in layouts for work in (DECODE, PROMPT)})

    def several(self, rows: torch.Tensor, operands: Sequence[Operand], work: str) -> list[torch.Tensor]:
        key = (rows.shape, rows.dtype, work, *[id(operand.layout) for operand in operands])
        plan = self._plans.get(key) or self._planned(key, [operand.layout for operand in operands], work)
        if plan.kernel is None:
            return [self(rows, operand, work) for operand in operands]
        rows, arguments = rows.contiguous(), plan.arguments
        arguments[states.STATES] = rows.data_ptr()
        results, place = [], ARGUMENTS
        for operand, shape in zip(operands, plan.shapes, strict=True):
            result = torch.empty(shape)
            arguments[place : place + TILES_BEFORE] = operand.arguments
            arguments[place + OUT] = result.data_ptr()
            results.append(result)
            place += OPERAND_ARGUMENTS
        product.multiply(self.pool.control, *plan.addresses, plan.packs, plan.tiles, plan.together)
        return [_cut(result, len(rows), layout.rows) for result, layout in zip(results, plan.layouts, strict=True)]

    def _planned(self, key: tuple, layouts: Sequence[Tiled], work: str) -> _Plan:
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        (rows, width), dtype = key[:2]
        assert dtype == torch.float32, f"states are {dtype}, not float32"
        assert {layout.columns for layout in layouts} == {width}, f"states of {width} inputs for {layouts}"
        alike = len({(layout.format, layout.lead) for layout in layouts}) == 1
        plan = self._plan(rows, layouts, work) if alike else _Plan(layouts)
        self._plans[key] = plan
        return plan

    def _plan(self, rows: int, layouts: Sequence[Tiled], work: str) -> _Plan:
        first = layouts[0]
        kernel = self.kernel(first, work)
        packs = -(-rows // kernel.height)
        padded = packs * kernel.height
        arguments = np.zeros(ARGUMENTS + len(layouts) * OPERAND_ARGUMENTS, np.int64)
        groups = first.inputs // kernel.group if kernel.kind == INTEGER else 0
        arguments[states.ROWS : states.CODE_OFFSET + 1] = self._settings(rows, first, kernel, groups)
        arguments[states.ORDERED : states.SUMS + 1] = self._room(padded, first.inputs, kernel, groups)
        arguments[states.OPERANDS] = len(layouts)
        tiles, place = 0, ARGUMENTS
        for layout in layouts:
            arguments[place + TILES_BEFORE] = tiles
            arguments[place + OUT_STEP] = 4 * TILE * layout.tiles
            tiles += layout.tiles
            place += OPERAND_ARGUMENTS
        together = max(1, _CHUNK // (first.parts[0].nbytes // first.tiles)) if packs == 1 else 1
        shapes = [(padded if rows > 1 else 1, TILE * layout.tiles) for layout in layouts]
        addresses = product.order_kernel(kernel), product.product_kernel(kernel), arguments.ctypes.data
        return _Plan(layouts, kernel, arguments, addresses, packs, tiles, together, shapes)

    def _settings(self, rows: int, layout: Tiled, kernel: Kernel, groups: int) -> tuple[int, ...]:
        """The arguments from the number of rows to the offset of the codes. groups: of states that are bytes."""
        offset = code_offset(kernel.dtype, kernel.zero_points, self.cpu) if groups else 0
        shape = rows, layout.columns, layout.lead, layout.inputs
        return *shape, kernel.height, kernel.group, groups, kernel.planes, offset

    def _room(self, rows: int, inputs: int, kernel: Kernel, groups: int) -> list[int]:
        """The addresses of the ordered states, steps, offsets and sums."""
        states_bytes = product.STATE_BYTES[kernel.kind] * kernel.planes * inputs
        sizes = [rows * size for size in (states_bytes, 4 * groups, 4 * groups * kernel.planes, 4 * groups)]
        places = np.cumsum([0, *(-(-size // _LINE) * _LINE for size in sizes)])
        if len(self._scratch) < places[-1] + _LINE:
            self._scratch = np.zeros(int(places[-1]) + _LINE, np.uint8)
            self._plans.clear()  # they point to the old one
        start = -(-self._scratch.ctypes.data // _LINE) * _LINE
        return [start + int(place) for place in places[:-1]]


def _cut(result: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    return result if result.shape == (rows, columns) else result[:rows, :columns]
