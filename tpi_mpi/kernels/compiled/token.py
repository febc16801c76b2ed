"""A token's norms and attention, for those who have tensors."""

import torch

from tpi_mpi.kernels.compiled import pieces


def normalise(states: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The root-mean-square norm of states (..., N) over the last axis, scaled by weight (N,)."""
    states, weight = states.contiguous(), weight.float()
    results, width = torch.empty_like(states), len(weight)
    rows = states.numel() // width
    pieces.normalise(states.data_ptr(), weight.data_ptr(), results.data_ptr(), rows, width, eps)
    return results


def attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    angles: tuple[torch.Tensor, torch.Tensor],
    cache: tuple[torch.Tensor, torch.Tensor],
    positions: tuple[int, int],
    heads: tuple[int, int],
) -> torch.Tensor:
    """Rotates queries and keys, appends keys and values to the cache, and attends.

    queries: (heads * head_dim), overwritten. keys, values: (key-value heads * head_dim) of the same position.
    angles: cosines and sines of the position, (rotary dim / 2) each.
    cache: keys and values of a layer, (key-value heads, capacity, head_dim) each.
    positions: the first that is seen, and this one. heads: the place of the first query head among those that read its
        key-value head, and how many these are.
    Returns (1, heads * head_dim).
    """
    (cos, sin), (cached_keys, cached_values), (first, own) = angles, cache, positions
    (kv_heads, capacity, dim), half, kind = cached_keys.shape, cos.shape[-1], pieces.CACHED[cached_keys.dtype]
    query, results = queries.data_ptr(), torch.empty(1, queries.numel())
    pieces.rotate(query, queries.numel() // dim, dim, cos.data_ptr(), sin.data_ptr(), half)
    pieces.rotate(keys.data_ptr(), kv_heads, dim, cos.data_ptr(), sin.data_ptr(), half)
    places = cached_keys.data_ptr(), cached_values.data_ptr()
    for states, place in zip((keys, values), places, strict=True):
        pieces.append(states.data_ptr(), place, kv_heads, dim, capacity, own, kind)
    count = queries.numel() // dim
    attend = pieces.attention_of(dim, kind)
    attend(query, results.data_ptr(), count, *places, capacity, first, own + 1, *heads)
    return results
