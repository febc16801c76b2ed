"""The product of a tile of floating-point weights with some rows of states: the code of one kernel.

Products are exact in float32 and added up in two chains, one of the even inputs and one of the odd ones, in the same
order whatever the number of rows, so that a row's result does not depend on the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llvmlite import ir

from tpi_mpi.kernels.table import ROUNDED, Kernel
from tpi_mpi.kernels.tiles.emitter import F16, F32, I8, I16, I32, LANES, Emitter

# Inputs whose code is written out between two jumps.
_UNROLLED = 16

# What float16 makes of the bits of a float8: that number times 2^-8.
_FLOAT8_FACTOR = 256.0


_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8": 1}
"""Of a weight."""


@dataclass(frozen=True)
class FloatArguments:
    """Where a tile finds what it needs; addresses and bytes, all 64 bits.

    weights: of the tile. inputs: how many there are, a multiple of 32.
    scales: float32, of the tile; scale_step: bytes from those of one group to those of the next; only for float8.
    states: float32 (inputs, height); if rounded, bfloat16 (inputs / 2, height, 2).
    out: float32 (height, out_step bytes): 16 results a row.
    """

    weights: ir.Value
    scales: ir.Value
    scale_step: ir.Value
    inputs: ir.Value
    states: ir.Value
    out: ir.Value
    out_step: ir.Value


def emit_float_tile(emit: Emitter, kernel: Kernel, at: FloatArguments) -> None:
    """Writes the kernel's code."""
    _Writer(emit, kernel, at).write()


class _Writer:
    def __init__(self, emit: Emitter, kernel: Kernel, at: FloatArguments):
        self.emit, self.kernel, self.at = emit, kernel, at

    def write(self) -> None:
        emit, at = self.emit, self.at
        results = self.scaled_sums() if self.kernel.dtype == "float8" else self.sums(None, at.inputs)
        for row, result in enumerate(results):
            emit.store(result, emit.builder.add(at.out, emit.times(at.out_step, row)))

    def scaled_sums(self) -> list[ir.Value]:
        """Group by group, since each has its scale."""
        emit, at, group = self.emit, self.at, self.kernel.group
        results = [emit.variable(emit.constant(0.0, F32)) for _ in range(self.kernel.height)]
        count = emit.builder.udiv(at.inputs, ir.Constant(at.inputs.type, group))
        with emit.loop(count) as index:
            sums = self.sums(emit.times(index, group), ir.Constant(at.inputs.type, group))
            scales = emit.load(at.scales, emit.builder.mul(index, at.scale_step), F32)
            scales = emit.builder.fmul(scales, emit.constant(_FLOAT8_FACTOR, F32))
            for result, total in zip(results, sums, strict=True):
                emit.set(result, emit.fma(total, scales, emit.get(result)))
        return [emit.get(result) for result in results]

    def sums(self, first: ir.Value | None, count: ir.Value) -> list[ir.Value]:
        """The sums of ``count`` inputs from ``first`` on, one vector a row."""
        emit = self.emit
        chains = [[emit.variable(emit.constant(0.0, F32)) for _ in range(2)] for _ in range(self.kernel.height)]
        with emit.loop(emit.builder.udiv(count, ir.Constant(count.type, _UNROLLED))) as index:
            start = emit.times(index, _UNROLLED)
            start = start if first is None else emit.builder.add(first, start)
            totals = [[emit.get(chain) for chain in pair] for pair in chains]
            (self.add_pairs if self.kernel.kind == ROUNDED else self.add_products)(totals, start)
            for pair, values in zip(chains, totals, strict=True):
                for chain, value in zip(pair, values, strict=True):
                    emit.set(chain, value)
        return [emit.builder.fadd(emit.get(even), emit.get(odd)) for even, odd in chains]

    def add_products(self, totals: list[list[ir.Value]], start: ir.Value) -> None:
        emit, height = self.emit, self.kernel.height
        base = emit.times(start, 4 * height)
        for index, weights in enumerate(self.weights(start)):
            for row, chain in enumerate(totals):
                state = emit.broadcast(self.at.states, emit.plus(base, 4 * (index * height + row)), F32)
                chain[index % 2] = emit.fma(weights, state, chain[index % 2])

    def add_pairs(self, totals: list[list[ir.Value]], start: ir.Value) -> None:
        """Two inputs at a time; both weights and states are bfloat16."""
        emit, height = self.emit, self.kernel.height
        base = emit.times(start, 2 * height)
        for index in range(_UNROLLED // 2):
            weights = self.load(start, 2 * index, I32, LANES)
            for row, chain in enumerate(totals):
                state = emit.broadcast(self.at.states, emit.plus(base, 4 * (index * height + row)), I32)
                chain[index % 2] = emit.dot_bfloat16(chain[index % 2], weights, state)

    def weights(self, start: ir.Value) -> Iterator[ir.Value]:
        """The weights of the inputs from ``start`` on as float32, one vector of 16 rows for each input."""
        match self.kernel.dtype:
            case "float32":
                yield from (self.load(start, index, F32, LANES) for index in range(_UNROLLED))
            case "float16":
                halves = (self.load(start, index, F16, LANES) for index in range(_UNROLLED))
                yield from (self.emit.widen(half) for half in halves)
            case "bfloat16":
                for index in range(0, _UNROLLED, 2):
                    yield from self.widened_pair(self.load(start, index, I32, LANES))
            case "float8":
                for index in range(0, _UNROLLED, 2):
                    yield from self.widened_bytes(self.load(start, index, I8, 2 * LANES))

    def load(self, start: ir.Value, index: int, element: ir.Type, lanes: int) -> ir.Value:
        emit, size = self.emit, _BYTES[self.kernel.dtype] * LANES
        offset = emit.plus(emit.times(start, size), index * size)
        return emit.load_weights(self.at.weights, offset, element, self.kernel.height, lanes)

    def widened_pair(self, pairs: ir.Value) -> Iterator[ir.Value]:
        """Two bfloat16 in each lane: the first in its low bits."""
        builder, floats = self.emit.builder, ir.VectorType(F32, LANES)
        yield builder.bitcast(builder.shl(pairs, self.emit.constant(16, I32)), floats)
        yield builder.bitcast(builder.and_(pairs, self.emit.constant(-65536, I32)), floats)

    def widened_bytes(self, codes: ir.Value) -> Iterator[ir.Value]:
        """Two inputs' float8, each divided by 256: sign, exponent and mantissa moved to where float16 has them."""
        emit, builder, count = self.emit, self.emit.builder, 2 * LANES
        words = builder.sext(codes, ir.VectorType(I16, count))
        bits = builder.and_(builder.shl(words, emit.constant(7, I16, count)), emit.constant(-16385, I16, count))
        halves = builder.bitcast(bits, ir.VectorType(F16, count))
        yield from (emit.widen(emit.half(halves, which)) for which in range(2))
