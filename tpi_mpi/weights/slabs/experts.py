"""Where the experts of a layer lie in a slab: each in a range of bytes of its own, beginning on a page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tpi_mpi.kernels.experts.record import ALIGNMENT, ExpertRecord
from tpi_mpi.kernels.formats import Layout
from tpi_mpi.model import names
from tpi_mpi.model.blocks import expert_name
from tpi_mpi.model.names import bias_of, weight_of
from tpi_mpi.weights.slabs.extents import PAGE, BlockExtent, TensorExtent

TENSORS = (
    *map(weight_of, (names.GATE_PROJ, names.UP_PROJ, names.DOWN_PROJ)),
    *map(bias_of, (names.GATE_PROJ, names.UP_PROJ, names.DOWN_PROJ)),
)
"""An expert's tensors, in the order in which kernels know them: see :mod:`tpi_mpi.kernels.experts.record`."""


def record_of(layouts: Sequence[Layout | None]) -> ExpertRecord:
    """How an expert lies that has tensors in these layouts, in the order of :data:`TENSORS`.

    Equal records are one object, by which what has been prepared for one is found again in every layer.
    """
    return _record(tuple(layouts))


@cache
def _record(layouts: tuple[Layout | None, ...]) -> ExpertRecord:
    offsets, end = [], 0
    for layout in layouts:
        own = []
        for part in layout.parts if layout else ():
            own.append(-(-end // ALIGNMENT) * ALIGNMENT)
            end = own[-1] + part.nbytes
        offsets.append(tuple(own))
    return ExpertRecord(layouts, tuple(offsets), -(-end // PAGE) * PAGE)


def kinds_of(own: Sequence[ExpertRecord]) -> tuple[tuple[ExpertRecord, ...], np.ndarray]:
    """The different ones of some records, and which of them each is: int64 (n,)."""
    records = tuple(dict.fromkeys(own))
    return records, np.array([records.index(record) for record in own])


@dataclass(frozen=True)
class LayerExperts:
    """One rank's shares of the experts of a layer.

    records: the different ways in which they lie in memory. kinds: int64 (E,), which of these each expert has.
    offsets: int64 (E,), in bytes from the start of the file. checksums: uint64 (E,), XXH3 of each one's whole record.
    """

    layer: int
    records: tuple[ExpertRecord, ...]
    kinds: np.ndarray
    offsets: np.ndarray
    checksums: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)

    def record(self, number: int) -> ExpertRecord:
        return self.records[self.kinds[number]]

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        counts = np.bincount(self.kinds, minlength=len(self.records)).tolist()
        return sum(count * record.nbytes for count, record in zip(counts, self.records, strict=True))

    @property
    def largest(self) -> int:
        """Bytes of the largest one."""
        return max(record.nbytes for record in self.records)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Where they lie in a file: those of a kind one after the other, from a first byte up to a last one."""
        for kind, record in enumerate(self.records):
            offsets = self.offsets[self.kinds == kind]
            yield int(offsets.min()), int(offsets.max()) + record.nbytes

    def extents(self) -> Iterator[BlockExtent]:
        """Each as a block, in the order of their numbers: for whoever handles all blocks alike."""
        return (self.extent(number) for number in range(len(self)))

    def extent(self, number: int) -> BlockExtent:
        record, offset = self.record(number), int(self.offsets[number])
        tensors = tuple(
            TensorExtent(name, layout, tuple(offset + own for own in offsets))
            for name, layout, offsets in zip(TENSORS, record.tensors, record.offsets, strict=True)
            if layout
        )
        padding = offset + record.nbytes - tensors[-1].stop
        return BlockExtent(expert_name(self.layer, number), tensors, f"{int(self.checksums[number]):016x}", padding)
