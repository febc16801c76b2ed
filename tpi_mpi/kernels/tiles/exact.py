"""Sums of exact products in double precision, many side by side; see :mod:`tpi_mpi.kernels.loops.experts.exact`."""

from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from tpi_mpi.kernels.experts.choice import PARTS
from tpi_mpi.kernels.operand import KINDS

_INT = types.int64
_SUMS = ir.VectorType(ir.DoubleType(), PARTS)
_FLOATS, _HALVES = (ir.VectorType(kind, PARTS) for kind in (ir.FloatType(), ir.HalfType()))
_WORDS, _SHORTS = (ir.VectorType(ir.IntType(bits), PARTS) for bits in (32, 16))
_DTYPES = {kind: dtype for dtype, kind in KINDS.items()}


@intrinsic(prefer_literal=True)
def add_blocks(typing, kind, rows, parts, states, room, weights, blocks):
    """Adds the products of some blocks of PARTS numbers to as many partial sums, in which they stay apart.

    kind: of the weights, as in :data:`tpi_mpi.kernels.operand.KINDS`. rows: of states. Both must be literal.
    parts, states: addresses of float64 (rows, PARTS) and (rows, room). weights: address of stored numbers.
    """
    if not (isinstance(kind, types.IntegerLiteral) and isinstance(rows, types.IntegerLiteral)):
        raise errors.TypingError("the kind and the rows must be literal")
    dtype = _DTYPES[kind.literal_value]
    stored = _FLOATS if dtype == "float32" else _SHORTS

    def emit(context, builder, signature, arguments):
        parts, states, room, weights, blocks = arguments[2:]
        places = [_row(builder, parts, ir.Constant(parts.type, PARTS), row) for row in range(rows.literal_value)]
        sources = [_row(builder, states, room, row) for row in range(rows.literal_value)]
        weights = builder.inttoptr(weights, stored.as_pointer())
        sums = [cgutils.alloca_once_value(builder, builder.load(place, align=8)) for place in places]
        add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_SUMS, [_SUMS] * 3), f"llvm.fmuladd.v{PARTS}f64"
        )
        with cgutils.for_range(builder, blocks) as loop:
            weight = _wide(builder, builder.load(builder.gep(weights, [loop.index]), align=2), dtype)
            for source, total in zip(sources, sums, strict=True):
                own = builder.load(builder.gep(source, [loop.index]), align=8)
                builder.store(builder.call(add, [own, weight, builder.load(total)]), total)
        for place, total in zip(places, sums, strict=True):
            builder.store(builder.load(total), place, align=8)
        return context.get_dummy_value()

    return types.void(kind, rows, *[_INT] * 5), emit


def _row(builder: ir.IRBuilder, address: ir.Value, room: ir.Value, row: int) -> ir.Value:
    """Where a row of float64 begins."""
    before = builder.mul(room, ir.Constant(room.type, 8 * row))
    return builder.inttoptr(builder.add(address, before), _SUMS.as_pointer())


def _wide(builder: ir.IRBuilder, bits: ir.Value, dtype: str) -> ir.Value:
    """Stored numbers as float64."""
    if dtype == "bfloat16":
        shift = ir.Constant(_WORDS, [16] * PARTS)
        bits = builder.bitcast(builder.shl(builder.zext(bits, _WORDS), shift), _FLOATS)
    elif dtype == "float16":
        bits = builder.fpext(builder.bitcast(bits, _HALVES), _FLOATS)
    return builder.fpext(bits, _SUMS)
