"""The arithmetic of a transformer layer: functions of float32 activations and of weights in any format."""

import torch
import torch.nn.functional as F

from tpi_mpi.kernels.linear import linear as multiply
from tpi_mpi.kernels.operand import Operand

_ACTIVATIONS = {
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda states: F.gelu(states, approximate="tanh"),
    "gelu_pytorch_tanh": lambda states: F.gelu(states, approximate="tanh"),
}


def rms_norm(states: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square normalisation of states (..., N) over the last axis, scaled by weight (N,)."""
    variance = states.pow(2).mean(-1, keepdim=True)
    return states * torch.rsqrt(variance + eps) * weight.float()


def linear(states: torch.Tensor, weight: Operand, bias: torch.Tensor | None = None) -> torch.Tensor:
    """States (M, K) in float32 times the transpose of weight (N, K), plus bias (N,): (M, N) in float32."""
    product = multiply(states, weight)
    return product if bias is None else product + bias.float()


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
