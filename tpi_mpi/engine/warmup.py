"""A warm-up: zeros pass once through each kind of block.

What the libraries take for their own (code, threads, workspaces, connections) is then taken, so that it can be
measured before the rest of the memory is shared out, and the first token does not wait for it.
"""

import mmap

import torch

from tpi_mpi.comm.allreduce.algorithms import Allreduce
from tpi_mpi.model.transformer import ModelShard, Weights
from tpi_mpi.weights.mapping import tensors_of
from tpi_mpi.weights.slab import BlockExtent, Slab


def warm_up(slab: Slab, model: ModelShard, allreduce: Allreduce, most_rows: int) -> None:
    """Computes the first layer on zeros, for one token and for as many as a sweep ever has; on all ranks together."""
    attention, feed_forward = map(_zero_weights, slab.first_layer)
    for rows in sorted({1, most_rows}):
        span, cache = model.span(0, rows, rows), model.new_cache(rows)
        hidden = torch.zeros(rows, slab.config.hidden_size)
        hidden += allreduce.sum(model.attention(attention, hidden, 0, span, cache))
        hidden += allreduce.sum(model.feed_forward(feed_forward, hidden))


def _zero_weights(block: BlockExtent) -> Weights:
    """Tensors of a block's shapes that take no memory: reading a private page never written maps the zero page."""
    nothing = mmap.mmap(-1, block.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return tensors_of(nothing, block, block.offset)
