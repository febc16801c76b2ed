"""Vector instructions, written into the code that Numba compiles.

Vectors have 16 lanes on every CPU: LLVM splits them where registers are shorter. Only what LLVM cannot find by itself
is spelled out: products of bytes and of bfloat16.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

from tpi_mpi.kernels.cpu import Cpu
from tpi_mpi.kernels.table import signed_offset

LANES = 16
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()

# From this many rows on, weights are asked for so many bytes ahead: it gains up to half at 8 rows, and loses at one.
_AHEAD_FROM, _AHEAD = 4, 4096

Offset = int | ir.Value
"""Bytes, known when the code is written or when it runs."""


class Emitter:
    """Writes instructions with a builder. Addresses are integers; vectors have 16 lanes unless it says otherwise."""

    def __init__(self, builder: ir.IRBuilder, cpu: Cpu):
        self.builder = builder
        self.cpu = cpu

    # Memory

    def load(self, address: ir.Value, offset: Offset, element: ir.Type, lanes: int = LANES) -> ir.Value:
        """A vector from any address; a single element if ``lanes`` is 1."""
        kind = element if lanes == 1 else ir.VectorType(element, lanes)
        return self.builder.load(self._pointer(address, offset, kind), align=1)

    def store(self, value: ir.Value, address: ir.Value, offset: Offset = 0) -> None:
        self.builder.store(value, self._pointer(address, offset, value.type), align=1)

    def broadcast(self, address: ir.Value, offset: Offset, element: ir.Type) -> ir.Value:
        """All lanes with the one element at an address."""
        return self.splat(self.load(address, offset, element, lanes=1))

    def load_weights(
        self, address: ir.Value, offset: ir.Value, element: ir.Type, rows: int, lanes: int = LANES
    ) -> ir.Value:
        """A vector of weights that are read once, for this many rows of states."""
        if rows >= _AHEAD_FROM:
            self.prefetch(address, self.plus(offset, _AHEAD))
        return self.load(address, offset, element, lanes)

    def prefetch(self, address: ir.Value, offset: Offset) -> None:
        """Asks for the cache line at an address, which need not be mapped."""
        pointer = self._pointer(address, offset, I8)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = self._function("llvm.prefetch.p0", kind)
        self.builder.call(function, [pointer, I32(0), I32(3), I32(1)])

    def _pointer(self, address: ir.Value, offset: Offset, kind: ir.Type) -> ir.Value:
        base = self.builder.inttoptr(address, I8.as_pointer())
        moved = self.builder.gep(base, [I64(offset) if isinstance(offset, int) else offset])
        return self.builder.bitcast(moved, kind.as_pointer())

    def plus(self, offset: ir.Value, constant: int) -> ir.Value:
        return self.builder.add(offset, I64(constant))

    def times(self, value: ir.Value, constant: int) -> ir.Value:
        return self.builder.mul(value, I64(constant))

    # Loops and variables

    def variable(self, value: ir.Value) -> ir.Value:
        """A variable that a loop may change; LLVM keeps it in a register."""
        with self.builder.goto_entry_block():
            slot = self.builder.alloca(value.type)
        self.builder.store(value, slot)
        return slot

    def get(self, variable: ir.Value) -> ir.Value:
        return self.builder.load(variable)

    def set(self, variable: ir.Value, value: ir.Value) -> None:
        self.builder.store(value, variable)

    @contextmanager
    def loop(self, count: ir.Value) -> Iterator[ir.Value]:
        """Repeats what is emitted inside, with the index (64 bits)."""
        builder = self.builder
        head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
        before = builder.block
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(I64)
        index.add_incoming(I64(0), before)
        builder.cbranch(builder.icmp_signed("<", index, count), body, after)
        builder.position_at_end(body)
        yield index
        index.add_incoming(builder.add(index, I64(1)), builder.block)
        builder.branch(head)
        builder.position_at_end(after)

    # Arithmetic

    def constant(self, value: int | float, element: ir.Type, lanes: int = LANES) -> ir.Constant:
        return ir.Constant(ir.VectorType(element, lanes), [value] * lanes)

    def splat(self, value: ir.Value, lanes: int = LANES) -> ir.Value:
        undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, value, I32(0))
        return self.builder.shuffle_vector(first, undefined, self.constant(0, I32, lanes))

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """The product of a and b, plus c, rounded once."""
        return self._call(f"llvm.fma.v{a.type.count}f32", a.type, a, b, c)

    def nearest(self, vector: ir.Value) -> ir.Value:
        """The nearest whole numbers, even ones at equal distances."""
        return self._call(f"llvm.rint.v{vector.type.count}f32", vector.type, vector)

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._call(f"llvm.smax.v{a.type.count}i32", a.type, a, b)

    def largest(self, integers: ir.Value) -> ir.Value:
        """The largest of all lanes."""
        return self._call(f"llvm.vector.reduce.smax.v{integers.type.count}i32", I32, integers)

    def sum(self, integers: ir.Value) -> ir.Value:
        """The sum of all lanes."""
        return self._call(f"llvm.vector.reduce.add.v{integers.type.count}i32", I32, integers)

    def to_float(self, integers: ir.Value) -> ir.Value:
        return self.builder.sitofp(integers, ir.VectorType(F32, integers.type.count))

    def widen(self, halves: ir.Value) -> ir.Value:
        """float32 of float16; exact, also for denormal numbers."""
        return self.builder.fpext(halves, ir.VectorType(F32, halves.type.count))

    def shuffle_bytes(self, table: Sequence[int], indices: ir.Value) -> ir.Value:
        """For each byte of the indices (16 lanes of 32 bits), each below 16, that entry of the table."""
        match self.cpu.dot:
            case "vnni512" | "maddubs" if self.cpu.wide:
                name, width = "llvm.x86.avx512.pshuf.b.512", 64
            case "vnni256" | "maddubs":
                name, width = "llvm.x86.avx2.pshuf.b", 32
            case _ if self.cpu.machine == "aarch64":
                name, width = "llvm.aarch64.neon.tbl1.v16i8", 16
            case _:
                return self._looked_up(table, indices)
        kind = ir.VectorType(I8, width)
        entries = ir.Constant(kind, list(table) * (width // 16))
        parts = [self._call(name, kind, entries, self._as(part, kind)) for part in self._split(indices, width)]
        return self._joined([self._as(part, ir.VectorType(I32, width // 4)) for part in parts])

    def _looked_up(self, table: Sequence[int], indices: ir.Value) -> ir.Value:
        """Without an instruction for it: one comparison for each entry."""
        kind = ir.VectorType(I8, 64)
        codes, result = self._as(indices, kind), self.constant(table[0], I8, 64)
        for code, entry in list(enumerate(table))[1:]:
            same = self.builder.icmp_unsigned("==", codes, self.constant(code, I8, 64))
            result = self.builder.select(same, self.constant(entry, I8, 64), result)
        return self._as(result, indices.type)

    # Products of bytes and of bfloat16

    def dot(self, total: ir.Value, weights: ir.Value, states: ir.Value) -> ir.Value:
        """Adds, in each 32-bit lane, the products of four weights (0 to 127) and four states (-127 to 127)."""
        match self.cpu.dot:
            case "vnni512":
                return self._call("llvm.x86.avx512.vpdpbusd.512", total.type, total, weights, states)
            case "vnni256":
                return self._by_parts("llvm.x86.avx512.vpdpbusd.256", 32, total, weights, states)
            case "maddubs":
                return self._maddubs(total, weights, states)
            case "sdot":
                return self._sdot(total, weights, states)
        return self._plain_dot(total, weights, states)

    def dot_signed(self, total: ir.Value, weights: ir.Value, states: ir.Value) -> ir.Value:
        """The same with weights from -128 to 127, to each of which :func:`signed_offset` is added."""
        if signed_offset(self.cpu):
            flipped = self.builder.xor(weights, self.constant(-0x7F7F7F80, I32))
            return self.dot(total, flipped, states)
        if self.cpu.dot == "maddubs":
            return self._maddubs(total, *self._sign_moved(weights, states))
        return self.dot(total, weights, states)

    def dot_bfloat16(self, total: ir.Value, weights: ir.Value, states: ir.Value) -> ir.Value:
        """Adds, in each lane of float32, the products of two weights and two states."""
        return self._call("llvm.x86.avx512bf16.dpbf16ps.512", total.type, total, weights, states)

    def _by_parts(self, name: str, width: int, *vectors: ir.Value) -> ir.Value:
        """An instruction for vectors of ``width`` bytes, applied to each part of longer ones."""
        parts = zip(*(self._split(vector, width) for vector in vectors), strict=True)
        return self._joined([self._call(name, part[0].type, *part) for part in parts])

    def _maddubs(self, total: ir.Value, weights: ir.Value, states: ir.Value) -> ir.Value:
        """By two instructions of AVX2; the sum of two products fits 16 bits, as weights are at most 128."""
        ones, pairs, sums = self.constant(1, I16, 16), ir.VectorType(I16, 16), ir.VectorType(I32, 8)
        bytes_ = ir.VectorType(I8, 32)
        parts = []
        for weight, state in zip(self._split(weights, 32), self._split(states, 32), strict=True):
            products = self._call("llvm.x86.avx2.pmadd.ub.sw", pairs, self._as(weight, bytes_), self._as(state, bytes_))
            parts.append(self._call("llvm.x86.avx2.pmadd.wd", sums, products, ones))
        return self.builder.add(total, self._joined(parts))

    def _sign_moved(self, weights: ir.Value, states: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The weights without their signs, and the states with them."""
        bytes_, words = ir.VectorType(I8, 32), ir.VectorType(I32, 8)
        sizes, signed = [], []
        for weight, state in zip(self._split(weights, 32), self._split(states, 32), strict=True):
            weight, state = self._as(weight, bytes_), self._as(state, bytes_)
            sizes.append(self._as(self._call("llvm.abs.v32i8", bytes_, weight, I1(0)), words))
            signed.append(self._as(self._call("llvm.x86.avx2.psign.b", bytes_, state, weight), words))
        return self._joined(sizes), self._joined(signed)

    def _sdot(self, total: ir.Value, weights: ir.Value, states: ir.Value) -> ir.Value:
        bytes_, parts = ir.VectorType(I8, 16), []
        for part in zip(*(self._split(vector, 16) for vector in (total, weights, states)), strict=True):
            operands = part[0], self._as(part[1], bytes_), self._as(part[2], bytes_)
            parts.append(self._call("llvm.aarch64.neon.sdot.v4i32.v16i8", part[0].type, *operands))
        return self._joined(parts)

    def _plain_dot(self, total: ir.Value, weights: ir.Value, states: ir.Value) -> ir.Value:
        """Shifts, products and sums that every CPU has."""
        shift, builder = self.constant(24, I32), self.builder
        for byte in range(4):
            left = self.constant(24 - 8 * byte, I32)
            weight, state = (builder.ashr(builder.shl(vector, left), shift) for vector in (weights, states))
            total = builder.add(total, builder.mul(weight, state))
        return total

    # Vectors of other lengths

    def _split(self, vector: ir.Value, width: int) -> list[ir.Value]:
        """Consecutive parts of ``width`` bytes."""
        lanes = width // 4
        undefined = ir.Constant(vector.type, ir.Undefined)
        starts = range(0, vector.type.count, lanes)
        masks = [ir.Constant(ir.VectorType(I32, lanes), list(range(start, start + lanes))) for start in starts]
        return [self.builder.shuffle_vector(vector, undefined, mask) for mask in masks]

    def _joined(self, parts: list[ir.Value]) -> ir.Value:
        while len(parts) > 1:
            lanes = 2 * parts[0].type.count
            mask = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
            parts = [self.builder.shuffle_vector(a, b, mask) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def _as(self, vector: ir.Value, kind: ir.Type) -> ir.Value:
        return self.builder.bitcast(vector, kind)

    def half(self, vector: ir.Value, which: int) -> ir.Value:
        """The first or the second half of a vector's lanes."""
        lanes = vector.type.count // 2
        mask = ir.Constant(ir.VectorType(I32, lanes), list(range(which * lanes, (which + 1) * lanes)))
        return self.builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    def _call(self, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(self._function(name, kind), arguments)

    def _function(self, name: str, kind: ir.FunctionType) -> ir.Function:
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, kind, name)
