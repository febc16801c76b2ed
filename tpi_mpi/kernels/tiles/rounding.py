"""One group of states, rounded to bytes: the code of what integer kernels are fed with.

With the step s of a group, which is its largest state over 127, a state x becomes q = round(x / s), and in the second
plane the remainder in steps of s / 254. A group with an infinite state, or with one that is not a number, gets a step
that is not a number.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llvmlite import ir

from tpi_mpi.kernels.formats import UNIT
from tpi_mpi.kernels.tiles.emitter import F32, I8, I32, LANES, Emitter

FINE = 254
"""How many steps of the second plane make one of the first."""

_LARGEST = 127.0
_MAGNITUDE, _INFINITY = 0x7FFFFFFF, 0x7F800000
# A group whose largest state is below 2^-120 is taken for zeros: the inverse of its step would overflow.
_TINY = (127 - 120) << 23


@dataclass(frozen=True)
class RoundingArguments:
    """Where a group is, and where its results go; addresses and bytes, all 64 bits.

    states: float32 (group). target: int8 of the first 32 inputs, (planes, 32); unit_step: bytes from there to those of
        the next 32.
    step: float32. offsets: int32 (planes): the sums of the bytes, times minus ``code_offset``. total: float32, minus
        the sum of the rounded states, in steps.
    """

    states: ir.Value
    target: ir.Value
    unit_step: ir.Value
    step: ir.Value
    offsets: ir.Value
    total: ir.Value
    code_offset: ir.Value


def emit_rounding(emit: Emitter, group: int, planes: int, at: RoundingArguments) -> None:
    """Writes the code. group: a multiple of 32. planes: 1 or 2."""
    _Writer(emit, group, planes, at).write()


class _Writer:
    def __init__(self, emit: Emitter, group: int, planes: int, at: RoundingArguments):
        self.emit, self.planes, self.at = emit, planes, at
        self.vectors = [emit.load(at.states, 4 * first, F32) for first in range(0, group, LANES)]

    def write(self) -> None:
        emit, at, builder = self.emit, self.at, self.emit.builder
        largest = self.largest_bits()
        usable = builder.and_(
            builder.icmp_signed(">", largest, I32(_TINY)), builder.icmp_signed("<", largest, I32(_INFINITY))
        )
        top = builder.bitcast(largest, F32)
        scale = builder.select(usable, builder.fdiv(F32(_LARGEST), top), F32(0.0))
        sums = self.rounded(emit.splat(scale), emit.splat(usable))
        for plane, total in enumerate(sums):
            emit.store(builder.mul(builder.neg(total), builder.trunc(at.code_offset, I32)), at.offsets, 4 * plane)
        emit.store(self.minus_sum(sums), at.total)
        broken = builder.select(builder.icmp_signed("<", largest, I32(_INFINITY)), F32(0.0), F32(float("nan")))
        emit.store(builder.select(usable, builder.fdiv(top, F32(_LARGEST)), broken), at.step)

    def largest_bits(self) -> ir.Value:
        """The bits of the largest state without its sign: as integers, they are in the order of the numbers."""
        emit, integers = self.emit, ir.VectorType(I32, LANES)
        mask = emit.constant(_MAGNITUDE, I32)
        bits = [emit.builder.and_(emit.builder.bitcast(vector, integers), mask) for vector in self.vectors]
        most = bits[0]
        for other in bits[1:]:
            most = emit.larger(most, other)
        return emit.largest(most)

    def rounded(self, scale: ir.Value, usable: ir.Value) -> list[ir.Value]:
        """Stores the bytes; returns the sum of each plane."""
        emit = self.emit
        totals = [emit.constant(0, I32) for _ in range(self.planes)]
        for index, vector in enumerate(self.vectors):
            unit, place = divmod(index * LANES, UNIT)
            base = emit.builder.add(self.at.target, emit.times(self.at.unit_step, unit))
            for plane, whole in enumerate(self.whole_numbers(vector, scale, usable)):
                bytes_ = emit.builder.trunc(whole, ir.VectorType(I8, LANES))
                emit.store(bytes_, base, plane * UNIT + place)
                totals[plane] = emit.builder.add(totals[plane], whole)
        return [emit.sum(total) for total in totals]

    def whole_numbers(self, vector: ir.Value, scale: ir.Value, usable: ir.Value) -> Iterator[ir.Value]:
        """16 states as integers, plane by plane."""
        emit, builder, integers = self.emit, self.emit.builder, ir.VectorType(I32, LANES)
        scaled = builder.select(usable, builder.fmul(vector, scale), emit.constant(0.0, F32))
        nearest = emit.nearest(scaled)
        yield builder.fptosi(nearest, integers)
        if self.planes == 2:
            rest = builder.fmul(builder.fsub(scaled, nearest), emit.constant(float(FINE), F32))
            yield builder.fptosi(emit.nearest(rest), integers)

    def minus_sum(self, sums: list[ir.Value]) -> ir.Value:
        builder = self.emit.builder
        coarse, *fine = (builder.sitofp(total, F32) for total in sums)
        if fine:
            coarse = builder.fadd(coarse, builder.fmul(fine[0], F32(1 / FINE)))
        return builder.fneg(coarse)
