"""How an expert lies in memory: its matrices and biases in a single piece."""

from dataclasses import dataclass

from tpi_mpi.kernels.formats import Layout, Tiled

EXPERT, EXPERT_OPTIONS = ("gate", "up", "down"), ("gate bias", "up bias", "down bias")
"""The order of an expert's tensors, and of those that it need not have, after them."""

ALIGNMENT = 64
"""Every part of a tensor begins at a multiple of this many bytes from the record's first."""


@dataclass(frozen=True, eq=False)
class ExpertRecord:
    """How one expert's share lies in a piece of memory. Found by its identity, as layouts are.

    tensors: their layouts in the order of :data:`EXPERT` and :data:`EXPERT_OPTIONS`; None where there is none.
    offsets: where each part of each tensor begins, in bytes from the record's first.
    nbytes: of the whole.
    """

    tensors: tuple[Layout | None, ...]
    offsets: tuple[tuple[int, ...], ...]
    nbytes: int

    @property
    def matrices(self) -> tuple[Tiled, ...]:
        return tuple(layout for layout in self.tensors if isinstance(layout, Tiled))


@dataclass(frozen=True)
class Present:
    """An expert in memory. number: among those of its layer. address: where its record begins."""

    number: int
    record: ExpertRecord
    address: int
