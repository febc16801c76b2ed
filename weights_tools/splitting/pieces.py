"""Pieces of tensors: what a source gives, and what of it belongs to a rank."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tpi_mpi.kernels.formats import Format
from tpi_mpi.kernels.packing import Rows
from tpi_mpi.model.blocks import Block, TensorSpec
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from weights_tools.splitting.digests import Digests


class Source(Protocol):
    """Where tensors come from: a checkpoint, or a generator of random ones."""

    name: str
    config: ModelConfig
    formats: Mapping[str, Format]
    ignored_keys: Sequence[str]

    def pieces(self, name: str, start: int, stop: int) -> Iterator[Rows]:
        """The rows of a tensor from ``start`` up to but not including ``stop``, some at a time.

        The numbers of a vector are its rows.
        """

    def fingerprint(self) -> object:
        """Something fit for JSON that differs if the tensors do."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a tensor, beginning with its row ``first``. source_nbytes: of their numbers in the source."""

    block: Block
    spec: TensorSpec
    first: int
    rows: Rows
    source_nbytes: int

    def cut(self, partition: Partition, rank: int, group: int) -> Rows | None:
        """The part that belongs to a rank, if any. group: of the rows' format."""
        shard = self.spec.shard(partition, rank)
        if shard is None:
            return None
        start, stop = shard
        if self.spec.axis == 1:
            return self.rows.columns(start, stop, group)
        if start >= self.first + len(self.rows) or stop <= self.first:
            return None
        return self.rows[max(start - self.first, 0) : stop - self.first]


def pieces_of(source: Source, blocks: Iterable[Block], digests: Digests) -> Iterator[Piece]:
    """Everything that is to be cut, in the order of the slabs; also computes the digests."""
    for block in blocks:
        for spec in block.tensors:
            first = spec.rows[0]
            for rows in source.pieces(spec.source, *spec.rows):
                digests.add(spec.source, first, rows)
                yield Piece(block, spec, first - spec.rows[0], rows, rows.values.nbytes)
                first += len(rows)
