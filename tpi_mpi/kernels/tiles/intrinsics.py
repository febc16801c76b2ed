"""The tiles' code as functions that compiled functions call."""

from dataclasses import replace

from numba import types
from numba.core import errors
from numba.extending import intrinsic

from tpi_mpi.kernels.cpu import this_cpu
from tpi_mpi.kernels.table import INTEGER, Kernel
from tpi_mpi.kernels.tiles.emitter import Emitter
from tpi_mpi.kernels.tiles.float_tile import FloatArguments, emit_float_tile
from tpi_mpi.kernels.tiles.integer_tile import IntegerArguments, emit_integer_tile
from tpi_mpi.kernels.tiles.rounding import RoundingArguments, emit_rounding

_INT = types.int64


@intrinsic(prefer_literal=True)
def round_group(typing, group, planes, states, target, unit_step, step, offsets, total, code_offset):
    """Rounds one group of states to bytes; the group and the planes must be literal. See :mod:`.rounding`."""
    if not (isinstance(group, types.IntegerLiteral) and isinstance(planes, types.IntegerLiteral)):
        raise errors.TypingError("the group and the planes must be literal")
    cpu = this_cpu()

    def emit(context, builder, signature, arguments):
        at = RoundingArguments(*arguments[2:])
        emit_rounding(Emitter(builder, cpu), group.literal_value, planes.literal_value, at)
        return context.get_dummy_value()

    return types.void(group, planes, *[_INT] * 7), emit


@intrinsic(prefer_literal=True)
def multiply_tile(
    typing, kernel, height, weights, scales, zeros, scale_step, inputs, ordered, steps, offsets, sums, out, out_step
):
    """Multiplies 16 rows of weights with a pack of ``height`` rows of states, a power of two up to the kernel's.

    kernel: a kernel's word; it must be literal. The others are addresses and bytes, as in
    :class:`IntegerArguments` and :class:`FloatArguments`.
    """
    if not isinstance(kernel, types.StringLiteral):
        raise errors.TypingError("the kernel must be literal")
    chosen, cpu = Kernel.read(kernel.literal_value), this_cpu()

    def emit(context, builder, signature, arguments):
        rows = chosen.height
        while rows:
            with builder.if_then(builder.icmp_signed("==", arguments[1], arguments[1].type(rows))):
                emit_tile(Emitter(builder, cpu), replace(chosen, height=rows), arguments[2:])
            rows //= 2
        return context.get_dummy_value()

    return types.void(kernel, *[_INT] * 12), emit


def emit_tile(emit: Emitter, kernel: Kernel, arguments) -> None:
    """Writes the code of one tile. arguments: the last eleven of :func:`multiply_tile`."""
    weights, scales, zero_points, scale_step, inputs, ordered, steps, offsets, sums, out, out_step = arguments
    if kernel.kind == INTEGER:
        groups = emit.builder.udiv(inputs, inputs.type(kernel.group))
        at = IntegerArguments(
            weights, scales, zero_points, scale_step, groups, ordered, steps, offsets, sums, out, out_step
        )
        emit_integer_tile(emit, kernel, at)
    else:
        emit_float_tile(emit, kernel, FloatArguments(weights, scales, scale_step, inputs, ordered, out, out_step))
