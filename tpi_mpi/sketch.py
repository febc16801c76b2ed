"""Sketches of slabs: the layout that a slab would have, without a file."""

from collections.abc import Mapping
from pathlib import Path

from tpi_mpi.blocks import Block
from tpi_mpi.config import ModelConfig
from tpi_mpi.partition import Partition
from tpi_mpi.slabs import PAGE, BlockExtent, Slab, TensorExtent, rank_blocks


def sketch(config: ModelConfig, partition: Partition, rank: int, dtypes: str | Mapping[str, str]) -> Slab:
    """A slab for all that depends on shapes and sizes alone: its blocks take as many bytes as those of a real one.

    dtypes: of all tensors, or of each by its name in the checkpoint.
    """
    blocks, end = {}, 0
    for block in rank_blocks(config, partition, rank):
        blocks[block.name] = _lay_out(block, partition, rank, dtypes, end)
        end = blocks[block.name].offset + blocks[block.name].nbytes
    dtype = dtypes if isinstance(dtypes, str) else dtypes["model.layers.0.self_attn.o_proj.weight"]
    return Slab(Path(), rank, dtype, config, partition, "", blocks)


def _lay_out(block: Block, partition: Partition, rank: int, dtypes: str | Mapping[str, str], end: int) -> BlockExtent:
    """The block's tensors one after the other, each on a page boundary."""
    tensors = []
    for spec in block.tensors:
        shape, dtype = spec.share_shape(partition, rank), dtypes if isinstance(dtypes, str) else dtypes[spec.source]
        tensors.append(TensorExtent(spec.name, dtype, shape, -(-end // PAGE) * PAGE))
        end = tensors[-1].offset + tensors[-1].nbytes
    return BlockExtent(block.name, tuple(tensors))
