"""Sums of exact products in double precision, many side by side; see :mod:`tpi_mpi.kernels.loops.experts.exact`."""

from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from tpi_mpi.kernels.experts.routing import PARTS
from tpi_mpi.kernels.operand import KINDS

_INT = types.int64
_SUMS = ir.VectorType(ir.DoubleType(), PARTS)
_FLOATS, _HALVES = (ir.VectorType(kind, PARTS) for kind in (ir.FloatType(), ir.HalfType()))
_WORDS, _SHORTS = (ir.VectorType(ir.IntType(bits), PARTS) for bits in (32, 16))
_DTYPES = {kind: dtype for dtype, kind in KINDS.items()}


@intrinsic(prefer_literal=True)
def add_blocks(typing, kind, parts, states, weights, blocks):
    """Adds the products of some blocks of PARTS numbers to as many partial sums, in which they stay apart.

    kind: of the weights, as in :data:`tpi_mpi.kernels.operand.KINDS`; literal. parts, states: addresses of float64.
    weights: address of stored numbers.
    """
    if not isinstance(kind, types.IntegerLiteral):
        raise errors.TypingError("the kind must be literal")
    dtype = _DTYPES[kind.literal_value]
    stored = _FLOATS if dtype == "float32" else _SHORTS

    def emit(context, builder, signature, arguments):
        _, *addresses, blocks = arguments
        parts, states, weights = (
            builder.inttoptr(address, vector.as_pointer())
            for address, vector in zip(addresses, (_SUMS, _SUMS, stored), strict=True)
        )
        sums = cgutils.alloca_once_value(builder, builder.load(parts, align=8))
        add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_SUMS, [_SUMS] * 3), f"llvm.fmuladd.v{PARTS}f64"
        )
        with cgutils.for_range(builder, blocks) as loop:
            own = builder.load(builder.gep(states, [loop.index]), align=8)
            bits = builder.load(builder.gep(weights, [loop.index]), align=2)
            builder.store(builder.call(add, [own, _wide(builder, bits, dtype), builder.load(sums)]), sums)
        builder.store(builder.load(sums), parts, align=8)
        return context.get_dummy_value()

    return types.void(kind, *[_INT] * 4), emit


def _wide(builder: ir.IRBuilder, bits: ir.Value, dtype: str) -> ir.Value:
    """Stored numbers as float64."""
    if dtype == "bfloat16":
        shift = ir.Constant(_WORDS, [16] * PARTS)
        bits = builder.bitcast(builder.shl(builder.zext(bits, _WORDS), shift), _FLOATS)
    elif dtype == "float16":
        bits = builder.fpext(builder.bitcast(bits, _HALVES), _FLOATS)
    return builder.fpext(bits, _SUMS)
