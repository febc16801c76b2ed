"""Products and blocks without compiled kernels: the weights are dequantized, and torch computes, slowly and obviously.

It runs where Numba is missing, and is what compiled code is tested against.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from tpi_mpi.kernels.blocks import Blocks, Segments, Shapes
from tpi_mpi.kernels.experts.slow_mixture import SlowMixture, slow_mixture_numbers
from tpi_mpi.kernels.formats import TILE, Format, Tiled
from tpi_mpi.kernels.kv_cache import KVCache
from tpi_mpi.kernels.operand import Arranged, Operand, Vector
from tpi_mpi.kernels.packing import Rows, dequantize, unpack

# Tiles that are dequantized at a time, so that the caches hold them and no whole matrix is in memory in float32.
_TILES = 32

_ACTIVATIONS = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda states: F.gelu(states, approximate="tanh"),
}


class Fallback:
    """Multiplies states with operands; see :class:`tpi_mpi.kernels.linear.Linear`."""

    threads = 1

    def __enter__(self) -> "Fallback":
        return self

    def __exit__(self, *exception) -> None:
        """It has no threads to end."""

    def adapt(self) -> None:
        """It has no threads of its own."""

    def prepare(self, layouts: Iterable[Tiled]) -> None:
        """There is nothing to compile."""

    def blocks(self, shapes: Shapes) -> Blocks:
        return FallbackBlocks(self, shapes)

    def describe(self, layouts: Iterable[Tiled]) -> list[str]:
        return ["torch, on dequantized weights"]

    @torch.inference_mode()
    def __call__(self, rows: np.ndarray, operand: Operand) -> np.ndarray:
        """Row by row, because torch's results for a row depend on how many there are."""
        states, product = torch.from_numpy(np.ascontiguousarray(rows)), torch.empty(len(rows), operand.shape[0])
        for first, weight in _pieces(operand):
            for result, row in zip(product, states, strict=True):
                result[first : first + len(weight)] = F.linear(row, weight)
        return product.numpy()

    def several(self, rows: np.ndarray, operands: Sequence[Operand]) -> list[np.ndarray]:
        return [self(rows, operand) for operand in operands]


class FallbackBlocks:
    """One rank's blocks; see :class:`tpi_mpi.kernels.blocks.Blocks`."""

    def __init__(self, linear: Fallback, shapes: Shapes):
        self._linear = linear
        self._shapes = shapes

    @torch.inference_mode()
    def attention(
        self, tensors: Arranged, hidden: np.ndarray, segments: Segments, cache: KVCache, layer: int, window: int | None
    ) -> np.ndarray:
        norm, query, key, value, output, *options = tensors.tensors
        query_bias, key_bias, value_bias, output_bias, query_norm, key_norm, sinks = options
        states = self._norm(norm, torch.from_numpy(hidden))
        queries = self._turned(self._heads(states, query, query_bias), query_norm, segments)
        keys = self._turned(self._heads(states, key, key_bias), key_norm, segments)
        values = self._heads(states, value, value_bias)
        mixed, first = [], 0
        for sequence, start, count in zip(segments.sequences, segments.starts, segments.counts, strict=True):
            rows, pages = slice(first, first + count), segments.pages[sequence]
            cache.append(layer, pages, start, *(_stored(own[:, rows], cache.dtype) for own in (keys, values)))
            mixed.append(self._attended(queries[:, rows], cache, layer, pages, int(start), window, sinks))
            first += count
        return self._product(torch.cat(mixed, 1).transpose(0, 1).flatten(1), output, output_bias).numpy()

    def _attended(
        self, queries: torch.Tensor, cache: KVCache, layer: int, pages: np.ndarray, start: int, window: int | None,
        sinks: Vector | None,
    ) -> torch.Tensor:  # fmt: skip
        """What the queries (H, T, head_dim) of consecutive positions see in the cache."""
        first, count = 0 if window is None else max(0, start - window + 1), queries.shape[1]
        seen = [torch.from_numpy(np.ascontiguousarray(own)) for own in cache.read(layer, pages, first, start + count)]
        heads, own_sinks = (self._shapes.heads_per_kv, self._shapes.first_head), sinks and _widened(sinks)
        mixed = []
        for at in range(count):  # one by one, because torch's results for a position depend on how many there are
            begin = 0 if window is None else max(0, start + at - window + 1)
            keys, values = (own[:, begin - first : start + at + 1 - first].clone() for own in seen)  # and how they lie
            one = queries[:, at : at + 1]
            mixed.append(attention(one, keys, values, *heads, own_sinks))
        return torch.cat(mixed, 1)

    @torch.inference_mode()
    def feed_forward(self, tensors: Arranged, hidden: np.ndarray) -> np.ndarray:
        norm, *others = tensors.tensors
        return self._gated(self._norm(norm, torch.from_numpy(hidden)), others)

    @torch.inference_mode()
    def mixture(self, tensors: Arranged, hidden: np.ndarray, partial: np.ndarray | None = None) -> SlowMixture:
        return SlowMixture(self._shapes, tensors, hidden, partial, self._expert)

    @torch.inference_mode()
    def _expert(self, states: np.ndarray, tensors: Sequence[Operand | Vector | None]) -> np.ndarray:
        return self._gated(torch.from_numpy(states), tensors)

    @torch.inference_mode()
    def normalise(self, tensors: Arranged, hidden: np.ndarray) -> np.ndarray:
        return self._norm(tensors.tensors[0], torch.from_numpy(hidden)).numpy()

    def memory(self, rows: int, longest: int) -> int:
        shapes = self._shapes
        mixed = shapes.heads * shapes.head_dim
        projected = rows * (6 * shapes.width + 4 * shapes.columns + 6 * mixed)
        widened = 4 * shapes.kv_heads * longest * shapes.head_dim  # keys and values in float32, and as stored
        dealt = slow_mixture_numbers(rows, shapes)
        return 4 * (projected + widened + shapes.heads * rows * longest + dealt)

    def _gated(self, states: torch.Tensor, tensors: Sequence[Operand | Vector | None]) -> np.ndarray:
        """What a feed-forward block, or an expert, makes of normalised states."""
        gate, up, down, gate_bias, up_bias, down_bias = tensors
        gates, ups = self._product(states, gate, gate_bias), self._product(states, up, up_bias)
        mixed = torch.stack([gated(self._shapes, *pair) for pair in zip(gates, ups, strict=True)])
        return self._product(mixed, down, down_bias).numpy()

    def _norm(self, weight: Vector, states: torch.Tensor) -> torch.Tensor:
        rows, scale = states.reshape(-1, states.shape[-1]), _widened(weight)  # one by one, like everything here
        return torch.stack([rms_norm(row, scale, self._shapes.eps) for row in rows]).reshape(states.shape)

    def _product(self, states: torch.Tensor, operand: Operand, bias: Vector | None) -> torch.Tensor:
        product = torch.from_numpy(self._linear(states.numpy(), operand))
        return product if bias is None else product + _widened(bias)

    def _heads(self, states: torch.Tensor, operand: Operand, bias: Vector | None) -> torch.Tensor:
        """(heads, T, head_dim)."""
        return self._product(states, operand, bias).unflatten(1, (-1, self._shapes.head_dim)).transpose(0, 1)

    def _turned(self, heads: torch.Tensor, norm: Vector | None, segments: Segments) -> torch.Tensor:
        heads = heads if norm is None else self._norm(norm, heads)
        return rotate(heads, torch.from_numpy(segments.cosines), torch.from_numpy(segments.sines))


def rms_norm(states: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square normalisation of states (..., N) over the last axis, scaled by weight (N,)."""
    variance = states.pow(2).mean(-1, keepdim=True)
    return states * torch.rsqrt(variance + eps) * weight


def gated(shapes: Shapes, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The feed-forward block's gate: activation(gate) * up; with SiLU, this is SwiGLU (arXiv 2002.05202)."""
    if shapes.activation == "clamped_swiglu":
        gate, up = gate.clamp(max=shapes.limit), up.clamp(-shapes.limit, shapes.limit)
        return gate * torch.sigmoid(shapes.alpha * gate) * (up + 1)
    return _ACTIVATIONS[shapes.activation](gate) * up


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates each pair (i, i + dim / 2) of the first ``dim`` components by its angle.

    states: (H, T, head_dim). cos, sin: (T, dim / 2). Returns (H, T, head_dim); components beyond ``dim`` are unchanged.
    """
    half = cos.shape[-1]
    first, second, rest = states[..., :half], states[..., half : 2 * half], states[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, heads_per_kv: int, first: int,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Grouped-query attention (arXiv 2305.13245) of one position over all of some keys, one head after the other.

    query: (H, 1, head_dim), consecutive heads; each key-value head is read by ``heads_per_kv`` of the model's.
    first: position of the first query head among those that read its key-value head.
    keys, values: (KV, S, head_dim).
    sinks: (H,), scores of what has no value, and takes part in the softmax all the same.
    Returns (H, 1, head_dim).
    """
    mixed = []
    for head, own in enumerate(query):
        kv_head = (first + head) // heads_per_kv
        scores = own @ keys[kv_head].T / own.shape[-1] ** 0.5
        if sinks is not None:
            scores = torch.cat([scores, sinks[head].expand(1, 1)], -1)
        mixed.append(scores.softmax(-1)[:, : keys.shape[1]] @ values[kv_head])
    return torch.stack(mixed)


def dequantized(operand: Operand) -> np.ndarray:
    """The weights, (N, K) in float32."""
    return np.concatenate([weight.numpy() for _, weight in _pieces(operand)])


def _pieces(operand: Operand) -> Iterator[tuple[int, torch.Tensor]]:
    """The weights of some tiles at a time, each with its first row's number."""
    layout = operand.layout
    for tile in range(0, layout.tiles, _TILES):
        rows = unpack([part[tile : tile + _TILES] for part in operand.parts], layout)
        weight = dequantize(rows[: layout.rows - tile * TILE], layout.format, layout.lead)
        yield tile * TILE, torch.from_numpy(weight)


def _widened(vector: Vector) -> torch.Tensor:
    return torch.from_numpy(dequantize(Rows(vector.stored[None]), Format(vector.layout.dtype))[0])


def _stored(states: torch.Tensor, dtype: str) -> np.ndarray:
    """States as a cache stores them."""
    values = states.contiguous()
    return (
        values.to(getattr(torch, dtype)).view(torch.int16).numpy().view(np.uint16)
        if dtype == "bfloat16"
        else (values.to(getattr(torch, dtype)).numpy())
    )
