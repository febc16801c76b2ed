"""Which kernel multiplies with a format on a CPU, as data."""

import json
from dataclasses import astuple, dataclass

from tpi_mpi.kernels.cpu import Cpu
from tpi_mpi.kernels.formats import GROUPS, Tiled
from tpi_mpi.kernels.packing import INT4_ZERO

INTEGER, FLOAT, ROUNDED = "integer", "float", "rounded"
"""Kinds of kernels: states as bytes, as float32, or as bfloat16."""

STATE_BYTES = {INTEGER: 1, FLOAT: 4, ROUNDED: 2}
"""Bytes of a state, by the kind of kernel; of each plane, where there are several."""

MXFP4_OFFSET = 12
"""What is added to twice the values of mxfp4, so that none is negative."""

_INTEGER_FORMATS = ("int8", "int4", "mxfp4")

# The most rows of states for which sums and weights fit in the CPU's registers, by kind and planes.
_WIDE = {(INTEGER, 1): 8, (INTEGER, 2): 8, (FLOAT, 1): 8, (ROUNDED, 1): 8}
_NARROW = {(INTEGER, 1): 4, (INTEGER, 2): 2, (FLOAT, 1): 4}


MOST_ROWS = max(*_WIDE.values(), *_NARROW.values())


@dataclass(frozen=True)
class Kernel:
    """One kernel's settings.

    kind: what states it takes. dtype, scales, zero_points: of the format. group: inputs that are summed up before they
    are scaled; for float8 and integers. planes: bytes of a state. height: the most rows that it computes together.
    """

    kind: str
    dtype: str
    scales: str
    zero_points: bool
    group: int
    planes: int
    height: int

    @property
    def word(self) -> str:
        """As text, which a function's version can be named by; :meth:`read` does the opposite."""
        return json.dumps(astuple(self))

    @classmethod
    def read(cls, word: str) -> "Kernel":
        return cls(*json.loads(word))

    def __str__(self) -> str:
        """For people: ``int4 with 2 planes, 8 rows at a time``."""
        states = {INTEGER: f"{self.planes} {'planes' if self.planes > 1 else 'plane'}", FLOAT: "float32 states"}
        return f"{self.dtype} with {states.get(self.kind, 'bfloat16 states')}, {self.height} rows at a time"


def choose(layout: Tiled, planes: int, cpu: Cpu) -> Kernel:
    """The kernel for a matrix. planes: the bytes of a state where the format is multiplied as integers: 1 or 2."""
    return _kernel(layout, _kind(layout.format.dtype, cpu), planes, cpu)


def choose_exact(layout: Tiled, cpu: Cpu) -> Kernel:
    """The kernel for a matrix of numbers that does not round states."""
    return _kernel(layout, FLOAT, 1, cpu)


def _kernel(layout: Tiled, kind: str, planes: int, cpu: Cpu) -> Kernel:
    format, heights = layout.format, _WIDE if cpu.wide else _NARROW
    planes = planes if kind == INTEGER else 1
    group = summed_together(layout) if format.packed else 0
    return Kernel(kind, format.dtype, format.scales, format.zero_points, group, planes, heights[kind, planes])


def _kind(dtype: str, cpu: Cpu) -> str:
    if dtype in _INTEGER_FORMATS:
        return INTEGER
    return ROUNDED if dtype == "bfloat16" and cpu.bfloat16 else FLOAT


def summed_together(layout: Tiled) -> int:
    """Inputs whose products are added up before they are scaled: the group, or as much of a row as divides it."""
    return layout.format.group or max(size for size in GROUPS if layout.inputs % size == 0)


def signed_offset(cpu: Cpu) -> int:
    """What products of signed bytes add to each weight; who asks for them subtracts as many times the sum of states."""
    return 128 if cpu.dot.startswith("vnni") else 0


def code_offset(dtype: str, zero_points: bool, cpu: Cpu) -> int:
    """What the codes are too large by, as the CPU's instruction sees them; 0 where zero points say it."""
    if dtype == "int8":
        return signed_offset(cpu)
    if dtype == "mxfp4":
        return MXFP4_OFFSET
    return 0 if zero_points else INT4_ZERO
