"""One query head and the positions that it attends to: the code of two loops over them."""

from dataclasses import dataclass
from math import gcd

from llvmlite import ir

from tpi_mpi.kernels.tiles.emitter import F16, F32, I16, I32, LANES, Emitter

BFLOAT16, FLOAT16, FLOAT32 = range(3)
"""What the numbers of a cache are, for compiled code."""


@dataclass(frozen=True)
class Head:
    """dim: numbers of a head. kind: of those in the cache."""

    dim: int
    kind: int

    @property
    def lanes(self) -> int:
        """Of vectors that a head is a whole number of."""
        return gcd(self.dim, LANES)

    @property
    def bytes_of_number(self) -> int:
        return 4 if self.kind == FLOAT32 else 2


def emit_scores(emit: Emitter, head: Head, query: ir.Value, keys: ir.Value, count: ir.Value, scores: ir.Value) -> None:
    """Stores the products of a query, float32 (dim), with ``count`` keys of a cache, in float32."""
    starts = range(0, head.dim, head.lanes)
    parts = [emit.load(query, 4 * start, F32, head.lanes) for start in starts]
    with emit.loop(count) as position:
        total = emit.constant(0.0, F32, head.lanes)
        for part, start in zip(parts, starts, strict=True):
            total = emit.fma(part, _numbers(emit, head, keys, position, start), total)
        emit.store(emit.sum_floats(total), scores, emit.times(position, 4))


def emit_mean(
    emit: Emitter, head: Head, weights: ir.Value, values: ir.Value, count: ir.Value, result: ir.Value
) -> None:
    """Stores the sum of ``count`` values of a cache times their weights, in float32 (dim)."""
    starts = range(0, head.dim, head.lanes)
    totals = [emit.variable(emit.constant(0.0, F32, head.lanes)) for _ in starts]
    with emit.loop(count) as position:
        weight = emit.splat(emit.load(weights, emit.times(position, 4), F32, lanes=1), head.lanes)
        for total, start in zip(totals, starts, strict=True):
            emit.set(total, emit.fma(weight, _numbers(emit, head, values, position, start), emit.get(total)))
    for total, start in zip(totals, starts, strict=True):
        emit.store(emit.get(total), result, 4 * start)


def _numbers(emit: Emitter, head: Head, cache: ir.Value, position: ir.Value, start: int) -> ir.Value:
    """Some numbers of one position as float32."""
    size = head.bytes_of_number
    place = emit.plus(emit.times(position, size * head.dim), size * start)
    if head.kind == FLOAT32:
        return emit.load(cache, place, F32, head.lanes)
    if head.kind == FLOAT16:
        return emit.widen(emit.load(cache, place, F16, head.lanes))
    bits = emit.builder.zext(emit.load(cache, place, I16, head.lanes), ir.VectorType(I32, head.lanes))
    high = emit.builder.shl(bits, emit.constant(16, I32, head.lanes))
    return emit.builder.bitcast(high, ir.VectorType(F32, head.lanes))
