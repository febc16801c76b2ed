"""The product of a tile of codes with some rows of states that are bytes: the code of one kernel.

A group at a time: the codes are loaded and unpacked, and each instruction adds the products of four inputs for 16
outputs at once, in integers, without rounding. Then the sums are scaled and added up in float32. Every row goes through
the same operations in the same order whatever the number of rows, so its result does not depend on the others.
"""

from dataclasses import dataclass

from llvmlite import ir

from tpi_mpi.kernels.formats import TILE, UNIT
from tpi_mpi.kernels.packing import E2M1
from tpi_mpi.kernels.table import MXFP4_OFFSET, Kernel, code_offset
from tpi_mpi.kernels.tiles.emitter import F16, F32, I8, I32, LANES, Emitter
from tpi_mpi.kernels.tiles.rounding import FINE

_MXFP4_TABLE = [int(2 * value) + MXFP4_OFFSET for value in E2M1]


@dataclass(frozen=True)
class IntegerArguments:
    """Where a tile finds what it needs; addresses and bytes, all 64 bits.

    weights, scales, zero_points: of the tile. scale_step: bytes from the scales of one group to those of the next; 0
        where a row has only one. groups: how many there are.
    states: int8 (inputs / 32, height, planes, 32). steps: float32 (groups, height), the size of a state of 1.
    offsets: int32 (groups, height, planes), what corrects the sums for the offset of the codes. sums: float32 (groups,
        height), the sum of a group's states, which the zero point is multiplied with.
    out: float32 (height, out_step bytes): 16 results a row.
    """

    weights: ir.Value
    scales: ir.Value
    zero_points: ir.Value
    scale_step: ir.Value
    groups: ir.Value
    states: ir.Value
    steps: ir.Value
    offsets: ir.Value
    sums: ir.Value
    out: ir.Value
    out_step: ir.Value


def emit_integer_tile(emit: Emitter, kernel: Kernel, at: IntegerArguments) -> None:
    """Writes the code of a kernel for as many rows as its height."""
    _Writer(emit, kernel, at).write()


class _Writer:
    def __init__(self, emit: Emitter, kernel: Kernel, at: IntegerArguments):
        self.emit, self.kernel, self.at = emit, kernel, at
        self.rows = range(kernel.height)
        self.corrected = code_offset(kernel.dtype, kernel.zero_points, emit.cpu) != 0

    def write(self) -> None:
        emit, at = self.emit, self.at
        results = [emit.variable(emit.constant(0.0, F32)) for _ in self.rows]
        with emit.loop(at.groups) as group:
            sums = self.group_sums(group)
            self.add_scaled(results, sums, group)
        for row, result in enumerate(results):
            emit.store(emit.get(result), emit.builder.add(at.out, emit.times(at.out_step, row)))

    def group_sums(self, group: ir.Value) -> list[list[ir.Value]]:
        """The integer sums of a group, by row and plane."""
        totals = [[self.first_sum(group, row, plane) for plane in range(self.kernel.planes)] for row in self.rows]
        units = self.kernel.group // UNIT
        for index in range(units):
            unit = self.emit.plus(self.emit.times(group, units), index)
            for words, inputs in self.codes(unit):
                self.add_products(totals, words, unit, inputs)
        return totals

    def first_sum(self, group: ir.Value, row: int, plane: int) -> ir.Value:
        if not self.corrected:
            return self.emit.constant(0, I32)
        across = self.kernel.height * self.kernel.planes
        offset = self.emit.plus(self.emit.times(group, 4 * across), 4 * (row * self.kernel.planes + plane))
        return self.emit.broadcast(self.at.offsets, offset, I32)

    def codes(self, unit: ir.Value):
        """The codes of 32 inputs, four at a time: 16 lanes of four bytes, and the first of the four inputs."""
        emit, mask, shift = self.emit, self.emit.constant(0x0F0F0F0F, I32), self.emit.constant(4, I32)
        loads = 8 if self.kernel.dtype == "int8" else 4
        base = emit.times(unit, loads * 4 * LANES)
        for index in range(loads):
            place = emit.plus(base, index * 4 * LANES)
            words = emit.load_weights(self.at.weights, place, I32, self.kernel.height)
            if loads == 8:
                yield words, 4 * index
                continue
            yield self.decoded(emit.builder.and_(words, mask)), 4 * index
            yield self.decoded(emit.builder.and_(emit.builder.lshr(words, shift), mask)), UNIT // 2 + 4 * index

    def decoded(self, words: ir.Value) -> ir.Value:
        return self.emit.shuffle_bytes(_MXFP4_TABLE, words) if self.kernel.dtype == "mxfp4" else words

    def add_products(self, totals: list[list[ir.Value]], words: ir.Value, unit: ir.Value, inputs: int) -> None:
        emit, kernel = self.emit, self.kernel
        dot = emit.dot_signed if kernel.dtype == "int8" else emit.dot
        base = emit.times(unit, UNIT * kernel.height * kernel.planes)
        for row in self.rows:
            for plane in range(kernel.planes):
                offset = emit.plus(base, UNIT * (row * kernel.planes + plane) + inputs)
                state = emit.broadcast(self.at.states, offset, I32)
                totals[row][plane] = dot(totals[row][plane], words, state)

    def add_scaled(self, results: list[ir.Value], sums: list[list[ir.Value]], group: ir.Value) -> None:
        emit, at, height = self.emit, self.at, self.kernel.height
        place = emit.builder.mul(group, at.scale_step)
        scales = self.numbers(at.scales, place)
        if self.kernel.dtype == "mxfp4":  # whose table of codes holds twice their values
            scales = emit.builder.fmul(scales, emit.constant(0.5, F32))
        zeros = self.numbers(at.zero_points, place) if self.kernel.zero_points else None
        for row in self.rows:
            here = emit.plus(emit.times(group, 4 * height), 4 * row)
            total = self.planes_together(sums[row])
            if zeros is not None:
                total = emit.fma(zeros, emit.broadcast(at.sums, here, F32), total)
            scale = emit.builder.fmul(scales, emit.broadcast(at.steps, here, F32))
            emit.set(results[row], emit.fma(total, scale, emit.get(results[row])))

    def planes_together(self, sums: list[ir.Value]) -> ir.Value:
        first, *fine = (self.emit.to_float(total) for total in sums)
        return self.emit.fma(fine[0], self.emit.constant(1 / FINE, F32), first) if fine else first

    def numbers(self, address: ir.Value, place: ir.Value) -> ir.Value:
        """16 scales or zero points as float32."""
        match self.kernel.scales:
            case "float16":
                return self.emit.widen(self.emit.load(address, place, F16))
            case "float32":
                return self.emit.load(address, place, F32)
        return self.powers_of_two(self.emit.load(address, place, I8))

    def powers_of_two(self, exponents: ir.Value) -> ir.Value:
        """2^(exponent - 127)."""
        emit, builder = self.emit, self.emit.builder
        wide = builder.zext(exponents, ir.VectorType(I32, TILE))
        bits = builder.shl(wide, emit.constant(23, I32))
        least = builder.icmp_unsigned("==", wide, emit.constant(0, I32))
        bits = builder.select(least, emit.constant(1 << 22, I32), bits)  # 2^-127 is a denormal number
        return builder.bitcast(bits, ir.VectorType(F32, TILE))
