"""The steps of a block for a number of rows, with the record that they share."""

from collections.abc import Sequence

import numpy as np

from tpi_mpi.kernels.blocks import Shapes
from tpi_mpi.kernels.compiled import functions
from tpi_mpi.kernels.compiled.functions import Function
from tpi_mpi.kernels.compiled.prepared import Step
from tpi_mpi.kernels.records import block as record

# Rows that a thread claims at a time, of steps that are done row by row.
_ROWS = 4


class Program:
    """The steps of a block for a number of rows, with the record that they share.

    attend: which step is attention, if any.
    """

    attend = 0

    def __init__(self, shapes: Shapes, rows: int):
        self.record = np.zeros(record.RECORD, np.int64)
        self.record[record.ROWS], self.record[record.WIDTH] = rows, shapes.width
        self.record[record.EPS] = np.float32(shapes.eps).view(np.uint32)
        self.address = self.record.ctypes.data
        self.kept: list = []  # whatever steps point to

    def set(self, **places: int) -> None:
        """Sets numbers of the record by their names in lower case."""
        for name, value in places.items():
            self.record[getattr(record, name.upper())] = value

    def by_rows(self, kernel: Function) -> Step:
        """A step that is done for each row."""
        return kernel.address, self.address, int(self.record[record.ROWS]), _ROWS

    def finish(self, *some: Sequence[Step]) -> None:
        """Puts the steps together."""
        self._steps = np.array([step for part in some for step in part], np.int64)
        self._steps_address, self._count = self._steps.ctypes.data, len(self._steps)

    def items(self, step: int, count: int) -> None:
        """Says how many items of work a step has."""
        self._steps[step, 2] = count

    def run(self, control: int) -> None:
        """Runs the steps, once the record is complete."""
        functions.EXECUTE.call(control, self._steps_address, self._count)
