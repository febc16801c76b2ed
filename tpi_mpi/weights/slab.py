"""The layout of a slab: one rank's shard of every layer, with each block a single byte range of a file.

:mod:`tpi_mpi.weights.slab_hdf5` reads and writes the file's header. The weights themselves are read through the file
descriptor (:mod:`tpi_mpi.weights.mapping`), because HDF5 serialises its calls on one lock.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from tpi_mpi.model.blocks import EMBEDDING, Block, shard_blocks, sources_of
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights import pages

PAGE = 4096
"""Every tensor of a slab begins at a multiple of this many bytes."""

STORED_AS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
ITEMSIZE = {dtype: np.dtype(stored).itemsize for dtype, stored in STORED_AS.items()}
NO_CHECKSUM = "0" * 16


@dataclass(frozen=True)
class TensorExtent:
    """Where a tensor lies in the slab: ``offset`` in bytes from the start of the file, in C order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class BlockExtent:
    """Where a block lies in the slab: a single byte range, with zeros between its tensors.

    checksum: XXH3 (64 bits, hexadecimal) of the whole range.
    """

    name: str
    tensors: tuple[TensorExtent, ...]
    checksum: str = NO_CHECKSUM

    @property
    def offset(self) -> int:
        return self.tensors[0].offset

    @property
    def nbytes(self) -> int:
        return self.tensors[-1].offset + self.tensors[-1].nbytes - self.offset

    def tensor(self, name: str) -> TensorExtent:
        return next(tensor for tensor in self.tensors if tensor.name == name)

    @property
    def stop(self) -> int:
        return self.offset + self.nbytes


@dataclass(frozen=True)
class Slab:
    """The header of one slab: which shard of which model it is, and where its blocks lie.

    dtype: the dtype in which most numbers of the whole model are stored.
    source_digest: XXH3 (128 bits, hexadecimal) of the checkpoint's tensors.
    blocks: by name, in the order of use; on rank 0 a separate embedding, if there is one, comes last.
    row_checksums: XXH3 (64 bits) of each row of that embedding, which is read row by row and not as a block.
    """

    path: Path
    rank: int
    dtype: str
    config: ModelConfig
    partition: Partition
    source_digest: str
    blocks: Mapping[str, BlockExtent]
    row_checksums: np.ndarray | None = None

    @property
    def sweep(self) -> Mapping[str, BlockExtent]:
        """The blocks that every sweep uses, in order: all but the embedding."""
        return {name: extent for name, extent in self.blocks.items() if name != EMBEDDING}

    @property
    def resident(self) -> Mapping[str, int]:
        """Bytes of memory that each block of a sweep takes while it is resident: whole pages of this machine."""
        return {name: pages.covering(extent.offset, extent.nbytes) for name, extent in self.sweep.items()}

    @property
    def first_layer(self) -> tuple[BlockExtent, ...]:
        """The blocks of the first layer; those of all other layers have the same shapes."""
        blocks = shard_blocks(self.config, self.partition, self.rank)
        return tuple(self.blocks[block.name] for block in blocks if block.layer == 0)

    @property
    def kv_dtype(self) -> str:
        """The dtype of the KV cache: that of most weights."""
        return self.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of weights, each counted once however many blocks link to them."""
        return sum({extent.offset: extent.nbytes for extent in self.blocks.values()}.values())

    def identity(self) -> dict[str, str]:
        """What all slabs of a split have in common, under names for the message that reports a difference."""
        return {
            "checkpoint digest": self.source_digest,
            "model configuration": json.dumps(dict(self.config.keys), sort_keys=True),
            "partition": json.dumps(self.partition.to_json()),
            "dtype": self.dtype,
        }


Dtypes = str | Mapping[str, str]
"""The stored dtype: one for all tensors, or one for each by its name in the checkpoint."""


def planned_slab(config: ModelConfig, partition: Partition, rank: int, dtypes: Dtypes) -> Slab:
    """A slab without a file, with blocks as large as real ones, for whatever depends only on shapes and sizes."""
    dtype_of = _lookup(dtypes)
    extents, end = {}, 0
    for block in shard_blocks(config, partition, rank):
        extents[block.name] = _place(block, partition, rank, dtype_of, end)
        end = extents[block.name].stop
    return Slab(Path(), rank, main_dtype(config, partition, dtypes), config, partition, "", extents)


def main_dtype(config: ModelConfig, partition: Partition, dtypes: Dtypes) -> str:
    """The dtype in which most numbers of the whole model are stored."""
    counts: Counter = Counter()
    dtype_of = _lookup(dtypes)
    for name, shape in sources_of(config, partition).items():
        counts[dtype_of(name)] += prod(shape)
    return counts.most_common(1)[0][0]


def _lookup(dtypes: Dtypes) -> Callable[[str], str]:
    return (lambda name: dtypes) if isinstance(dtypes, str) else dtypes.__getitem__


def _place(block: Block, partition: Partition, rank: int, dtype_of: Callable[[str], str], end: int) -> BlockExtent:
    """The block's tensors, one after the other from ``end`` on, each on a page boundary."""
    tensors = []
    for spec in block.tensors:
        shape, start = spec.shard_shape(partition, rank), -(-end // PAGE) * PAGE
        tensors.append(TensorExtent(spec.name, dtype_of(spec.source), shape, start))
        end = start + tensors[-1].nbytes
    return BlockExtent(block.name, tuple(tensors))
