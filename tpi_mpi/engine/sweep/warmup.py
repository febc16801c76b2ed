"""A warm-up: kernels are compiled, and zeros pass once through each kind of block.

Afterwards the libraries have taken what memory they need for themselves (code, threads, workspaces, connections), so
that it can be measured before the budget is divided, and the first token does not wait for it.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.allreduce.algorithms import Allreduce
from tpi_mpi.comm.allreduce.star import StarReduce
from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import say
from tpi_mpi.kernels.experts.record import Present
from tpi_mpi.kernels.linear import compiling_announced
from tpi_mpi.kernels.operand import Tensors
from tpi_mpi.model.blocks import Kind
from tpi_mpi.model.room import HEAD_ROWS
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.weights.mapping import tensors_of
from tpi_mpi.weights.pages import address_of
from tpi_mpi.weights.slabs.extents import BlockExtent
from tpi_mpi.weights.slabs.slab import Slab


@contextmanager
def compiled_once(world: World, cores: Cores) -> Iterator[None]:
    """The with-block, in which kernels are compiled or loaded, is left to the first rank of each host. Collective.

    Only when it is through with it, the others go through it too, and load from the disk what that one compiled. A rank
    that compiles says so.
    """
    line = f"kernels are compiled for the CPU of {world.host}, which happens once and takes some seconds"
    with cores.first_ahead(), compiling_announced(lambda: say(line)):
        yield


# Few rows whose results take more memory than a chunk's, because long sequences are divided for them.
_FEW = 8


def warm_up(
    slab: Slab,
    model: ModelShard,
    allreduce: Allreduce | None,
    reduce: StarReduce | None,
    most_rows: int,
    sweep_rows: int,
    longest: int,
) -> None:
    """Computes a block of each kind on zeros, for few rows and for the ``most_rows`` of a chunk; on all ranks together.

    Experts are computed for all rows of a sweep at once. sweep_rows: the most of those.
    allreduce, reduce: None where the rank is alone.
    longest: positions of the longest sequence, which need not be in memory for it.
    """
    cache, pages = model.new_cache(1, longest), np.zeros((1, 1), np.int64)
    for rows in sorted({1, min(_FEW, most_rows), most_rows}):
        ones = np.ones(rows, np.int64)
        segments = model.segments(pages, ones - 1, ones - 1, ones, ones)
        hidden = np.zeros((rows, slab.config.hidden_size), np.float32)
        for extent in slab.different_layers:
            weights = _zero_weights(extent)
            if extent.name.endswith(Kind.ATTENTION.value):
                partial = model.attention(weights, hidden, 0, segments, cache)
            elif extent.name.endswith(Kind.FEED_FORWARD.value):
                partial = model.feed_forward(weights, hidden)
            else:
                mixed = np.zeros((sweep_rows if rows == most_rows else rows, slab.config.hidden_size), np.float32)
                partial = _mix(slab, model, weights, mixed)[:rows]
        hidden += allreduce.sum(partial) if allreduce else partial
    if reduce:
        reduce.sum(partial[:HEAD_ROWS])


def _mix(slab: Slab, model: ModelShard, weights: Tensors, hidden: np.ndarray) -> np.ndarray:
    """The partial of experts that are zeros, of each kind that there is."""
    nothing = _zeros(max(record.nbytes for record in slab.records))
    for record in slab.records:
        mixture = model.mixture(weights, hidden)
        mixture.add([Present(number, record, address_of(nothing)) for number in mixture.wanted])
        partial = mixture.result()
    return partial


def _zero_weights(block: BlockExtent) -> Tensors:
    """Zeros in a block's shapes."""
    return tensors_of(_zeros(block.nbytes), block, block.offset)


def _zeros(nbytes: int) -> mmap.mmap:
    """Zeros that take no memory: reading a private page never written to maps the zero page."""
    return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
