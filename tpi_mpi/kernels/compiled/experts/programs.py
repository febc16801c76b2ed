"""The record and the memory of mixtures of a number of rows, prepared once."""

import struct

import numpy as np

from tpi_mpi.kernels.blocks import Shapes
from tpi_mpi.kernels.compiled import functions
from tpi_mpi.kernels.compiled.experts.templates import Templates
from tpi_mpi.kernels.compiled.prepared import Scratch
from tpi_mpi.kernels.formats import TILE
from tpi_mpi.kernels.records import job
from tpi_mpi.kernels.records import mixture as record

KEPT_BYTES = 4 << 20
"""Of the results of all pairs of a row and an expert, up to which they are kept, and added up in the end."""

PLACES = 2 * record.PIECE
"""Rows of results that are computed at a time, at most, with padding."""

_SCORINGS = {
    "softmax": record.SOFTMAX,
    "sigmoid": record.SIGMOID,
    "softmax of chosen": record.SOFTMAX_OF_CHOSEN,
}
_CALL = struct.Struct(f"{record.CALL}q")
# Rows that a thread claims at a time.
_ROWS = 4
_LINE = 64


class Program:
    """What mixtures of ``rows`` rows have in common. One at a time may be under way.

    kept: memory for what must last until a mixture is done. in_order: see :class:`.mixture.CompiledMixture`.
    wanted: int64 (1 + experts,), how many experts have rows, and which. presents: int64 (experts, PRESENT).
    """

    def __init__(self, shapes: Shapes, rows: int, kept: Scratch, threads: int):
        routing = shapes.routing
        self.record, self._rows = np.zeros(record.RECORD, np.int64), rows
        self._experts, self._pairs = routing.experts, rows * routing.top_k
        self.address = self.record.ctypes.data
        self.in_order = 4 * self._pairs * shapes.width > KEPT_BYTES
        self.presents = np.zeros((routing.experts, record.PRESENT), np.int64)
        self._output_step = 4 * TILE * -(-shapes.width // TILE)
        self._width, self._areas = shapes.width, ()
        self._set_rooms(kept, shapes.width)
        self._set(
            rows=rows, width=shapes.width, eps=_bits(shapes.eps), experts=routing.experts, top_k=routing.top_k,
            scoring=_SCORINGS[routing.scoring], normalised=routing.normalised, scale=_bits(routing.scale),
            output_step=self._output_step, presents=self.presents.ctypes.data, places=self._places, threads=threads,
            grouped=functions.GROUPED.address, sum=functions.ADD_UP.address, gather=functions.GATHER.address,
            activate=functions.ACTIVATE_GATES.address, add_bias=functions.ADD_BIAS.address,
        )  # fmt: skip
        groups = -(-routing.experts // record.EXPERTS_TOGETHER)
        together = -(-rows // record.ROWS_TOGETHER)
        columns = -(-shapes.width // record.COLUMNS_TOGETHER)
        self._deal = self._steps(
            (functions.NORMALISE_EXACTLY, rows, _ROWS),
            (functions.FIND_LOGITS, groups * together, min(_ROWS, together)),
            (functions.CHOOSE, rows, _ROWS),
            (functions.DEAL, 1, 1),
        )
        self._sum = self._steps((functions.ADD_UP, columns, 1))

    @property
    def _most(self) -> int:
        return _places_of(self._pairs)

    @property
    def _places(self) -> int:
        return min(PLACES, self._most)

    def _set(self, **places: int) -> None:
        """Sets numbers of the record by their names in lower case."""
        for name, value in places.items():
            self.record[getattr(record, name.upper())] = value

    def _set_rooms(self, kept: Scratch, width: int) -> None:
        experts = self._experts
        fewer = min(self._pairs, KEPT_BYTES // (4 * width))  # whose results are kept: more take no less memory
        of_results = _places_of(fewer) * self._output_step
        runs = experts + self._places  # of the experts, or of pieces of them
        sizes = {
            "states": 4 * self._rows * width,
            "logits": max(8 * self._rows * experts, of_results),
            "first_pairs": 8 * (experts + 1),
            "next_pairs": 8 * experts,
            "pair_rows": 8 * self._pairs,
            "pair_shares": 4 * self._pairs,
            "kept_places": 8 * experts,
            "runs": 8 * (1 + record.RUN * runs),
        }
        self._set(**dict(zip(sizes, kept.rooms(list(sizes.values())), strict=True)))
        if not self.in_order:
            self._set(kept=self.record[record.LOGITS])  # which are no longer needed when there are results
        self.wanted = np.zeros(1 + experts, np.int64)
        self._set(wanted=self.wanted.ctypes.data)

    def _steps(self, *steps: tuple[functions.Function, int, int]) -> np.ndarray:
        return np.array(
            [(kernel.address, self.address, items, together) for kernel, items, together in steps], np.int64
        )

    def deal(self, control: int, *places: int) -> None:
        """Chooses experts. places: the numbers of the record that change from call to call."""
        _CALL.pack_into(self.record, 0, *places)
        functions.EXECUTE.call(control, self._deal.ctypes.data, len(self._deal))

    def add(self, control: int, count: int, scratch: Scratch, templates: Templates) -> None:
        """Computes the first experts of ``presents``."""
        if self._areas != (scratch.version, len(templates)):
            self._set_areas(scratch, templates)
        r = self.record
        r[record.PRESENTS_COUNT], r[record.NEXT_PRESENT], r[record.NEXT_ROW] = count, 0, 0
        functions.ADD_EXPERTS.call(control, self.address)

    def add_up(self, control: int) -> None:
        """Adds the results that are kept up."""
        functions.EXECUTE.call(control, self._sum.ctypes.data, len(self._sum))

    def _set_areas(self, scratch: Scratch, templates: Templates) -> None:
        """Finds memory for the jobs of a time."""
        places = self._places
        jobs = min(places, self._experts + 2)  # of the pieces of an expert, all but one fill half of the places
        group = 8 * (job.GROUP + job.PART * jobs)
        sizes = {
            "gathered": 4 * places * self._width if self._rows > 1 else 0,
            "ordered": places * templates.ordered_bytes + jobs * 4 * _LINE,
            "projected": places * templates.results_bytes,
            "outputs": places * self._output_step if self.in_order else 0,
            "jobs": 8 * job.JOB * jobs,
            "groups": job.STEPS * group,
        }
        self._set(**dict(zip(sizes, scratch.rooms(list(sizes.values())), strict=True)))
        self._set(group_bytes=group, templates=templates.table.ctypes.data)
        self._areas = scratch.version, len(templates)


def _places_of(pairs: int) -> int:
    """Places that the results of some pairs take at most: the rows of an expert are filled up, five to eight."""
    return -(-8 * pairs // 5)


def _bits(number: float) -> int:
    return int(np.float64(number).view(np.int64))
