"""What a layer computes for a token besides products: its norms, and the attention to the positions before it.

Each function is given the addresses of float32 arrays. The slow, obvious versions are in :mod:`tpi_mpi.model.layers`.
"""

from collections.abc import Callable
from functools import cache
from math import factorial

import numpy as np
import torch

from tpi_mpi.kernels.compiled.jit import compiled, helper, named, reordering
from tpi_mpi.kernels.compiled.memory import array_at, half_bits
from tpi_mpi.kernels.compiled.states import rounded
from tpi_mpi.kernels.tiles.attention import BFLOAT16, FLOAT16, FLOAT32
from tpi_mpi.kernels.tiles.intrinsics import mean_of_positions, score_positions

CACHED = {torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float32: FLOAT32}

_LOG2_E, _LN_2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
_ONE, _HALF, _C3, _C4, _C5, _C6 = (np.float32(1 / factorial(n)) for n in (1, 2, 3, 4, 5, 6))


@reordering
def normalise(states, weight, results, rows, width, eps):
    """The root-mean-square norm of each row (width), scaled by the weight (width)."""
    scale = array_at(weight, width, np.float32)
    for row in range(rows):
        own = array_at(states + 4 * row * width, width, np.float32)
        result = array_at(results + 4 * row * width, width, np.float32)
        total = np.float32(0)
        for i in range(width):
            total += own[i] * own[i]
        factor = np.float32(1) / np.sqrt(total / np.float32(width) + np.float32(eps))
        for i in range(width):
            result[i] = own[i] * factor * scale[i]


@compiled
def rotate(heads, count, dim, cos, sin, half):
    """Rotates pairs (i, i + half) of each of ``count`` heads (dim) by the angles (half) of a position, in place."""
    c, s = array_at(cos, half, np.float32), array_at(sin, half, np.float32)
    for head in range(count):
        own = array_at(heads + 4 * head * dim, dim, np.float32)
        for i in range(half):
            first, second = own[i], own[half + i]
            own[i] = first * c[i] - second * s[i]
            own[half + i] = second * c[i] + first * s[i]


@compiled
def append(states, cache, count, dim, capacity, position, kind):
    """Stores heads (count, dim) of one position in a cache (count, capacity, dim)."""
    for head in range(count):
        source = array_at(states + 4 * head * dim, dim, np.float32)
        place = head * capacity + position
        if kind == FLOAT32:
            array_at(cache + 4 * place * dim, dim, np.float32)[:] = source
            continue
        target = array_at(cache + 2 * place * dim, dim, np.uint16)
        bits = source.view(np.uint32)
        for i in range(dim):
            target[i] = rounded(bits[i]) if kind == BFLOAT16 else half_bits(source[i])


@reordering
def softmax(scores, scale):
    """Replaces scores by the exponentials of ``scale`` times as much, divided by their sum."""
    largest, total = scores[0], np.float32(0)
    for t in range(len(scores)):
        largest = max(largest, scores[t])
    for t in range(len(scores)):
        scores[t] = _exp((scores[t] - largest) * scale)
        total += scores[t]
    for t in range(len(scores)):
        scores[t] /= total


@helper
def _exp(x):
    """The exponential of a number that is not positive, as 2^n times a polynomial; within 2e-7 of it."""
    scaled = max(x * _LOG2_E, np.float32(-126))
    whole = np.floor(scaled + np.float32(0.5))
    rest = (scaled - whole) * _LN_2
    series = _C6
    series = series * rest + _C5
    series = series * rest + _C4
    series = series * rest + _C3
    series = series * rest + _HALF
    series = series * rest + _ONE
    series = series * rest + _ONE
    return series * np.int32((np.int32(whole) + 127) << 23).view(np.float32)


@cache
def attention_of(dim: int, kind: int) -> Callable:
    """Grouped-query attention of one position, for one size of heads and one kind of numbers in the cache."""
    size = dim * (4 if kind == FLOAT32 else 2)

    def attend(queries, results, heads, keys, values, capacity, first_key, stop, first_head, heads_per_kv):
        """From queries (heads, dim) to the positions from ``first_key`` up to ``stop``.

        keys, values: of one layer, (key-value heads, capacity, dim). first_head: the place of the first query head
        among those that read its key-value head.
        """
        count, scale = stop - first_key, np.float32(1) / np.sqrt(np.float32(dim))
        scores = np.empty(count, np.float32)
        for head in range(heads):
            place = size * ((first_head + head) // heads_per_kv * capacity + first_key)
            score_positions(dim, kind, queries + 4 * head * dim, keys + place, count, scores.ctypes.data)
            softmax(scores, scale)
            mean_of_positions(dim, kind, scores.ctypes.data, values + place, count, results + 4 * head * dim)

    return compiled(named(attend, f"attend {dim} {kind}"))
