"""Arrays over memory that compiled functions know by its address, and float16, which Numba has on no CPU."""

from llvmlite import ir
from numba import carray, types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from tpi_mpi.kernels.loops.jit import helper


@intrinsic
def _pointer(typing, address):
    def emit(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), emit


@helper
def array_at(address, count, dtype):
    """``count`` numbers of a type from an address on."""
    return carray(_pointer(address), (count,), dtype)


@helper
def matrix_at(address, rows, columns, dtype):
    """The same as a matrix."""
    return carray(_pointer(address), (rows, columns), dtype)


@intrinsic
def half_bits(typing, value):
    """The bits of the nearest float16."""

    def emit(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.uint16(types.float32), emit


@intrinsic
def half_value(typing, bits):
    """The float16 with these bits, as a float32."""

    def emit(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), emit


@intrinsic(prefer_literal=True)
def stack(typing, count):
    """The address of room for ``count`` float32, until the function that this is compiled into returns; literal."""
    if not isinstance(count, types.IntegerLiteral):
        raise errors.TypingError("the count must be literal")
    kind = ir.ArrayType(ir.FloatType(), count.literal_value)

    def emit(context, builder, signature, arguments):
        room = cgutils.alloca_once(builder, kind)
        room.align = 64
        return builder.ptrtoint(room, ir.IntType(64))

    return types.int64(count), emit
