"""The arithmetic of a transformer layer: functions of float32 activations and of weights in any dtype."""

from functools import cache

import torch
import torch.nn.functional as F
from torch.backends import mkldnn as onednn

_ACTIVATIONS = {
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda states: F.gelu(states, approximate="tanh"),
    "gelu_pytorch_tanh": lambda states: F.gelu(states, approximate="tanh"),
}

# Half-precision weights are widened in tiles of this many elements, which fit in a core's cache.
_TILE_ELEMENTS = 1024**2
# Fewer rows than this are multiplied without widening, which would cost more than the product itself.
_TILE_MIN_ROWS = 4


def rms_norm(states: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square normalisation of states (..., N) over the last axis, scaled by weight (N,)."""
    variance = states.pow(2).mean(-1, keepdim=True)
    return states * torch.rsqrt(variance + eps) * weight.float()


def linear(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """States (M, K) times the transpose of weight (N, K), plus bias (N,): (M, N) in float32."""
    product = _multiply(states, weight)
    return product if bias is None else product + bias.float()


def _multiply(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """With half-precision weights, states and product are rounded to their dtype, whatever the number of rows."""
    if weight.dtype == torch.float32:
        return F.linear(states, weight)
    states = states.to(weight.dtype)
    if len(states) == 1:
        return _multiply_vector(states[0], weight)[None].float()
    if len(states) < _TILE_MIN_ROWS or _multiplies_fast(weight.dtype):
        return F.linear(states, weight).float()
    return _multiply_by_tiles(states.float(), weight).to(weight.dtype).float()


def _multiply_vector(state: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """One row, by torch's own GEMV: it reads the weight at twice the rate of oneDNN's, and rounds the same way."""
    onednn.enabled = False
    try:
        return torch.mv(weight, state)
    finally:
        onednn.enabled = True


@cache
def _multiplies_fast(dtype: torch.dtype) -> bool:
    """Whether torch has a fast matrix product for this half precision; without one, it multiplies row by row."""
    return dtype == torch.bfloat16 and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _multiply_by_tiles(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Like a GEMM that packs panels: a cache-sized tile of the weight is widened, used, and overwritten."""
    rows, width = weight.shape
    height = max(16, _TILE_ELEMENTS // width)
    tile = torch.empty(min(height, rows), width)
    product = torch.empty(len(states), rows)
    for start in range(0, rows, height):
        part = weight[start : start + height]
        widened = tile[: len(part)].copy_(part)
        product[:, start : start + height] = F.linear(states, widened)
    return product


def gated(activation: str, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The feed-forward block's gate: activation(gate) * up; with SiLU, this is SwiGLU (arXiv 2002.05202)."""
    return _ACTIVATIONS[activation](gate) * up


def attention(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    heads_per_kv: int,
    first: int = 0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Grouped-query attention (arXiv 2305.13245) over the keys seen so far.

    queries: (H, T, head_dim), consecutive heads; each key-value head is read by ``heads_per_kv`` of the model's.
    first: position of the first query head among those that read its key-value head. It need not be 0, because a
        rank's heads may begin and end anywhere.
    keys, values: (KV, S, head_dim) in any dtype.
    mask: (T, S), true where a query sees a key; None if every query sees all keys.
    Returns (H, T, head_dim) in float32.
    """
    heads, count, dim = queries.shape
    missing = len(keys) * heads_per_kv - first - heads
    if first or missing:  # the first and last key-value heads are also read by heads of other ranks: pad those
        queries = F.pad(queries, (0, 0, 0, 0, first, missing))
    mixed = _attend(queries.view(len(keys), heads_per_kv, count, dim), keys.float(), values.float(), mask)
    return mixed.reshape(len(keys) * heads_per_kv, count, dim)[first : first + heads]


def _attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Attention of queries (KV, heads_per_kv, T, head_dim) to keys, values (KV, S, head_dim); same shape as queries."""
    if queries.shape[2] == 1:  # one token: treat heads as positions, so that keys are read only once
        mixed = F.scaled_dot_product_attention(queries.transpose(1, 2), keys[:, None], values[:, None])
        return mixed.transpose(1, 2)
    shape = (*queries.shape[:2], *keys.shape[1:])
    keys, values = keys[:, None].expand(shape), values[:, None].expand(shape)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def causal_mask(start: int, count: int, first_key: int, window: int | None) -> torch.Tensor:
    """(count, S), true where a query sees a key: queries from position ``start`` on, keys from ``first_key`` on.

    window: the number of latest positions that a query sees, itself included; None for all.
    """
    query = torch.arange(start, start + count)[:, None]
    key = torch.arange(first_key, start + count)
    seen = key <= query
    return seen if window is None else seen & (key > query - window)
