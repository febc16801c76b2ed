"""The layout of a slab: one rank's shard of every layer, with each block a single byte range of a file.

:mod:`tpi_mpi.weights.slabs.hdf5` reads and writes the file's header. The weights themselves are read through the file
descriptor (:mod:`tpi_mpi.weights.mapping`), because HDF5 serialises its calls on one lock.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np

from tpi_mpi.kernels.experts.record import ExpertRecord
from tpi_mpi.kernels.formats import FLOATS, Format, Layout, Plain, Tiled
from tpi_mpi.model import names
from tpi_mpi.model.blocks import (
    EMBEDDING,
    Block,
    Kind,
    TensorSpec,
    all_blocks,
    experts_of,
    router_name,
    shard_blocks,
    shard_of,
)
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights import pages
from tpi_mpi.weights.slabs.experts import TENSORS, LayerExperts, kinds_of, record_of
from tpi_mpi.weights.slabs.extents import PAGE, BlockExtent, TensorExtent
from tpi_mpi.weights.slabs.stored_formats import StoredFormats


@dataclass(frozen=True)
class Slab:
    """The header of one slab: which shard of which model it is, and where its blocks lie.

    dtype: the dtype in which most weights of the whole model are stored. formats: those of its matrices, head,
        embedding and vectors, for people.
    source_digest: XXH3 (128 bits, hexadecimal) of the checkpoint's tensors.
    blocks: all but experts, by name, in the order of use; on rank 0 the embedding comes last.
    experts: by layer, of those layers that have some.
    row_checksums: XXH3 (64 bits) of each row of the embedding, which is read row by row and not as a block.
    """

    path: Path
    rank: int
    dtype: str
    formats: Mapping[str, str]
    config: ModelConfig
    partition: Partition
    source_digest: str
    blocks: Mapping[str, BlockExtent]
    row_checksums: np.ndarray | None = None
    experts: Mapping[int, LayerExperts] = field(default_factory=dict)

    @property
    def extents(self) -> Iterator[BlockExtent]:
        """Every block, experts included, in the order in which they lie in the file."""
        beside = {router_name(layer): own for layer, own in self.experts.items()}
        for name, extent in self.blocks.items():
            yield extent
            if name in beside:
                yield from beside[name].extents()

    def extent(self, name: str) -> BlockExtent:
        """That of a block, which may be an expert. Raises KeyError if the rank holds none of it."""
        if name in self.blocks:
            return self.blocks[name]
        kind, number = name.split(".")[-2:]
        if kind != Kind.EXPERT.value:
            raise KeyError(name)
        return self.experts[int(name.split(".")[1])].extent(int(number))

    def holds(self, name: str) -> bool:
        """Whether the rank holds some of a block; of experts, every rank does."""
        return name in self.blocks or f".{Kind.EXPERT.value}." in name

    @property
    def sweep(self) -> Mapping[str, BlockExtent]:
        """The blocks that every sweep uses, in order: all but the embedding."""
        return {name: extent for name, extent in self.blocks.items() if name != EMBEDDING}

    @property
    def token_bytes(self) -> Mapping[str, int]:
        """Bytes of weights that a token needs of each block of a sweep, and of the experts that the block chooses."""
        sizes = {name: extent.nbytes for name, extent in self.sweep.items()}
        for layer, own in self.experts.items():
            average = own.nbytes // len(own)
            sizes[router_name(layer)] += self.config.experts.routing.top_k * average
        return sizes

    @property
    def resident(self) -> Mapping[str, int]:
        """Bytes of memory that each block of a sweep takes while it is resident: whole pages of this machine."""
        return {name: pages.covering(extent.offset, extent.nbytes) for name, extent in self.sweep.items()}

    @property
    def different_layers(self) -> Sequence[BlockExtent]:
        """Blocks of layers, in the order of use, whose tensors do not lie like those of an earlier one."""
        found = {tuple(tensor.layout for tensor in extent.tensors): extent for extent in reversed(self.layers.values())}
        return list(reversed(found.values()))

    @property
    def layers(self) -> Mapping[str, BlockExtent]:
        """The blocks of a sweep that every rank has; what else rank 0 has of it is the output head."""
        blocks = shard_blocks(self.config, self.partition, self.rank)
        return {block.name: self.blocks[block.name] for block in blocks if block.layer is not None}

    @property
    def matrices(self) -> Sequence[Tiled]:
        """The different layouts of the matrices of a sweep, experts included."""
        layouts = (tensor.layout for extent in self.sweep.values() for tensor in extent.tensors)
        found = dict.fromkeys(layout for layout in layouts if isinstance(layout, Tiled))
        return tuple(found | dict.fromkeys(layout for record in self.records for layout in record.matrices))

    @property
    def records(self) -> Sequence[ExpertRecord]:
        """The different ways in which experts lie in memory."""
        return tuple(dict.fromkeys(record for own in self.experts.values() for record in own.records))

    @property
    def looked_up(self) -> Sequence[str]:
        """The dtype of the embedding, if the rank has it."""
        return [tensor.layout.dtype for tensor in self.blocks[EMBEDDING].tensors] if EMBEDDING in self.blocks else []

    @property
    def kv_dtype(self) -> str:
        """The dtype of keys and values unless another is asked for: that of most weights, or bfloat16 beside packed."""
        return self.dtype if self.dtype in FLOATS else "bfloat16"

    @property
    def nbytes(self) -> int:
        """Bytes of weights, each counted once however many blocks link to them."""
        experts = {int(own.offsets[0]): own.nbytes for own in self.experts.values()}
        return sum({extent.offset: extent.nbytes for extent in self.blocks.values()}.values()) + sum(experts.values())

    def identity(self) -> dict[str, str]:
        """What all slabs of a split have in common, under names for the message that reports a difference."""
        return {
            "checkpoint digest": self.source_digest,
            "model configuration": json.dumps(dict(self.config.keys), sort_keys=True),
            "partition": json.dumps(self.partition.to_json()),
            "dtype": json.dumps(dict(self.formats), sort_keys=True),
        }


def empty_slab(
    path: Path, config: ModelConfig, partition: Partition, rank: int, formats: StoredFormats, digest: str = ""
) -> Slab:
    """A slab without blocks."""
    dtype, described = formats.main_dtype(config, partition), formats.described(config, partition)
    return Slab(path, rank, dtype, described, config, partition, digest, {})


def planned_slab(config: ModelConfig, partition: Partition, rank: int, formats: StoredFormats) -> Slab:
    """A slab without a file, with blocks as large as real ones, for whatever depends only on shapes and sizes."""
    extents, experts, end = {}, {}, 0
    for block in shard_blocks(config, partition, rank):
        extents[block.name] = _place(block, partition, rank, formats, end)
        end = extents[block.name].stop
        if block.kind is Kind.ROUTER:
            experts[block.layer] = _place_experts(config, partition, rank, block.layer, formats, end)
            end += experts[block.layer].nbytes + PAGE
    return replace(empty_slab(Path(), config, partition, rank, formats), blocks=extents, experts=experts)


def records_of(
    config: ModelConfig, partition: Partition, rank: int, layer: int, formats: StoredFormats
) -> list[ExpertRecord]:
    """How each of a layer's experts lies in memory on a rank."""
    return [expert_record(block, partition, rank, formats) for block in experts_of(config, layer)]


def expert_record(block: Block, partition: Partition, rank: int, formats: StoredFormats) -> ExpertRecord:
    """How a rank's share of an expert lies in memory."""
    own = {spec.name: spec for spec in shard_of(block, partition, rank).tensors}
    specs = [own.get(name) for name in TENSORS]
    return record_of([spec and layout_of(spec, formats.of(spec), partition, rank) for spec in specs])


def _place_experts(
    config: ModelConfig, partition: Partition, rank: int, layer: int, formats: StoredFormats, end: int
) -> LayerExperts:
    """A layer's experts, one after the other, from the page after ``end`` on."""
    own = records_of(config, partition, rank, layer, formats)
    records, kinds = kinds_of(own)
    offsets = -(-end // PAGE) * PAGE + np.cumsum([0, *(record.nbytes for record in own)])[:-1]
    return LayerExperts(layer, records, kinds, offsets, np.zeros(len(own), np.uint64))


def layout_of(spec: TensorSpec, format: Format, partition: Partition, rank: int) -> Layout:
    """How the rank's shard of a tensor is stored; the rank must hold one.

    Equal layouts are one object, by which products that have been prepared are found again in every layer.
    """
    shape, (start, stop) = spec.shard_shape(partition, rank), spec.shard(partition, rank)
    if not spec.multiplied:
        return _one(Plain(format.dtype, shape))
    return _one(Tiled.cut(format, shape[0], start, stop) if spec.axis == 1 else Tiled(format, *shape))


@cache
def _one(layout: Layout) -> Layout:
    """The first of all equal layouts."""
    return layout


def formats_of(slab: Slab) -> StoredFormats:
    """The formats in which the whole model is stored. slab: that of rank 0, which has some of every tensor."""
    sources, head = {}, None
    for block in all_blocks(slab.config, slab.partition):
        extent = slab.extent(block.name)
        for spec in block.tensors:
            sources[spec.source] = extent.tensor(spec.name).layout.format
            if spec.name == names.weight_of(names.LM_HEAD):
                head = sources[spec.source]  # that of a tied embedding, which comes last, may be another
    return StoredFormats(sources, head=head)


def _place(block: Block, partition: Partition, rank: int, formats: StoredFormats, end: int) -> BlockExtent:
    """The parts of the block's tensors, one after the other from ``end`` on, each on a page boundary."""
    tensors = []
    for spec in block.tensors:
        layout, offsets = layout_of(spec, formats.of(spec), partition, rank), []
        for part in layout.parts:
            offsets.append(-(-end // PAGE) * PAGE)
            end = offsets[-1] + part.nbytes
        tensors.append(TensorExtent(spec.name, layout, tuple(offsets)))
    return BlockExtent(block.name, tuple(tensors))
