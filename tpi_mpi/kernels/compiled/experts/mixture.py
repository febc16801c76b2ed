"""Rows on their way through the experts that were chosen for them."""

from collections.abc import Sequence

import numpy as np

from tpi_mpi.kernels.blocks import Shapes
from tpi_mpi.kernels.compiled.experts.programs import Program
from tpi_mpi.kernels.compiled.experts.templates import Templates
from tpi_mpi.kernels.compiled.prepared import Scratch
from tpi_mpi.kernels.experts.record import Present
from tpi_mpi.kernels.operand import Arranged, address_of

_MOST_PROGRAMS = 256


class Mixtures:
    """Makes mixtures, one after another: a new one ends the one before.

    scratch: memory for what is computed at the moment, which others use too.
    """

    def __init__(self, control: int, threads: int, scratch: Scratch, shapes: Shapes, templates: Templates):
        self.control, self.scratch, self.templates = control, scratch, templates
        self._threads, self._shapes = threads, shapes
        self._kept = Scratch()
        self._programs: dict[int, Program] = {}
        self._version = 0
        self.current: CompiledMixture | None = None

    def made(self, tensors: Arranged, hidden: np.ndarray, partial: np.ndarray | None) -> "CompiledMixture":
        rows, top_k = len(hidden), self._shapes.routing.top_k
        program = self._programs.get(rows) if self._version == self._kept.version else None
        program = program or self._plan(rows)
        chosen, shares = np.empty((rows, top_k), np.int64), np.empty((rows, top_k), np.float32)
        result = np.zeros_like(hidden) if partial is None else partial
        places = address_of(hidden), address_of(result), address_of(chosen), address_of(shares)
        program.deal(self.control, tensors.address, *places)
        self.current = made = CompiledMixture(self, program, chosen, shares, result)
        return made

    def _plan(self, rows: int) -> Program:
        program = Program(self._shapes, rows, self._kept, self._threads)
        if len(self._programs) >= _MOST_PROGRAMS or self._version != self._kept.version:
            self._programs.clear()
        self._version = self._kept.version
        self._programs[rows] = program
        return program


class CompiledMixture:
    """See :class:`tpi_mpi.kernels.experts.mixture.Mixture`."""

    def __init__(
        self, mixtures: Mixtures, program: Program, chosen: np.ndarray, shares: np.ndarray, result: np.ndarray
    ):
        self._mixtures, self._program = mixtures, program
        self._result, self._done = result, False
        self.chosen, self.shares = chosen, shares
        self.in_order = program.in_order
        self.wanted: list[int] = program.wanted[1 : 1 + int(program.wanted[0])].tolist()

    def add(self, some: Sequence[Present]) -> None:
        if not some:
            return
        of, program = self._mixtures, self._program
        assert of.current is self, "another mixture was begun before this one was done"
        place = of.templates.place
        program.presents[: len(some)] = [(one.number, place(one.record), one.address) for one in some]
        program.add(of.control, len(some), of.scratch, of.templates)

    def result(self) -> np.ndarray:
        assert self._mixtures.current is self, "another mixture was begun before this one was done"
        if not (self.in_order or self._done):
            self._program.add_up(self._mixtures.control)
        self._done = True
        return self._result
