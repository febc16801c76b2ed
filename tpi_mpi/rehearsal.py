"""A rehearsal: zeros pass once through each kind of block.

What the libraries take for their own (code, threads, workspaces, connections) is then taken, so that it can be
measured before the rest of the memory is shared out, and the first token does not wait for it.
"""

import mmap

import torch

from tpi_mpi.allreduce import Allreduce
from tpi_mpi.blocks import attention_name, feed_forward_name
from tpi_mpi.model import ModelShare, Weights
from tpi_mpi.slabs import BlockExtent, Slab


def rehearse(slab: Slab, model: ModelShare, allreduce: Allreduce, most_rows: int) -> None:
    """Computes the first layer on zeros, for one token and for as many as a sweep ever has; on all ranks together."""
    attention, feed_forward = (_zero_weights(slab.blocks[name]) for name in (attention_name(0), feed_forward_name(0)))
    for rows in sorted({1, most_rows}):
        span = model.span(0, rows, rows)
        cache = model.new_cache(rows, getattr(torch, slab.dtype))
        hidden = torch.zeros(rows, slab.config.hidden_size)
        hidden += allreduce.sum(model.attention(attention, hidden, 0, span, cache))
        hidden += allreduce.sum(model.feed_forward(feed_forward, hidden))


def _zero_weights(block: BlockExtent) -> Weights:
    """Tensors of a block's shapes that take no memory: reading a private page never written maps the zero page."""
    nothing = mmap.mmap(-1, block.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    weights = {}
    for tensor in block.tensors:
        dtype = getattr(torch, tensor.dtype)
        flat = torch.frombuffer(nothing, dtype=dtype, count=tensor.nbytes // dtype.itemsize)
        weights[tensor.name] = flat.view(tensor.shape)
    return weights
