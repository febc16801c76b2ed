"""Instructions on memory that several threads share, and calls into code by its address, for compiled functions.

Addresses are int64.
"""

import platform
import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_INT = types.int64

# The number of the system call, which has no function in libc; other systems sleep by the clock instead.
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine()) if sys.platform == "linux" else None
_WAIT, _WAKE, _PRIVATE = 0, 1, 128
_NAP_MICROSECONDS = 50


def _function(builder, name: str, result: ir.Type, arguments: list[ir.Type], variable: bool = False) -> ir.Function:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments, variable), name)


def _at(builder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def load(typing, address):
    """The number at an address; what was written before it is seen too."""

    def emit(context, builder, signature, arguments):
        return builder.load_atomic(_at(builder, arguments[0]), "seq_cst", 8)

    return _INT(_INT), emit


@intrinsic
def store(typing, address, value):
    """Puts a number at an address, after everything written before it."""

    def emit(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _at(builder, arguments[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(_INT, _INT), emit


@intrinsic
def add(typing, address, value):
    """Adds to the number at an address; returns what it was before."""

    def emit(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _at(builder, arguments[0]), arguments[1], "seq_cst")

    return _INT(_INT, _INT), emit


@intrinsic
def call(typing, address, first, stop, arguments_address):
    """Calls a kernel by its address."""

    def emit(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [_I64] * 3)
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(_INT, _INT, _INT, _INT), emit


@intrinsic
def pause(typing):
    """Lets the core's other hardware thread go first, for some 20 to 60 ns."""
    x86 = platform.machine() in ("x86_64", "AMD64")

    def emit(context, builder, signature, arguments):
        if x86:
            builder.call(_function(builder, "llvm.x86.sse2.pause", ir.VoidType(), []), [])
        elif platform.machine() in ("aarch64", "arm64"):
            builder.call(_function(builder, "llvm.aarch64.hint", ir.VoidType(), [_I32]), [_I32(1)])
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def yield_core(typing):
    """Lets another thread have the core, if one waits for it."""

    def emit(context, builder, signature, arguments):
        builder.call(_function(builder, "sched_yield", _I32, []), [])
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def sleep_while(typing, address, value):
    """Sleeps until woken, unless the 32-bit number at an address is no longer this one. May return early."""

    def emit(context, builder, signature, arguments):
        if _FUTEX is None:
            builder.call(_function(builder, "usleep", _I32, [_I32]), [_I32(_NAP_MICROSECONDS)])
        else:
            _futex(builder, arguments[0], _WAIT, arguments[1])
        return context.get_dummy_value()

    return types.void(_INT, _INT), emit


@intrinsic
def wake(typing, address, count):
    """Wakes at most this many threads that sleep on an address."""

    def emit(context, builder, signature, arguments):
        if _FUTEX is not None:
            _futex(builder, arguments[0], _WAKE, arguments[1])
        return context.get_dummy_value()

    return types.void(_INT, _INT), emit


def _futex(builder, address: ir.Value, operation: int, value: ir.Value) -> None:
    syscall = _function(builder, "syscall", _I64, [_I64], variable=True)
    builder.call(syscall, [_I64(_FUTEX), address, _I64(operation | _PRIVATE), value, _I64(0), _I64(0), _I64(0)])


@intrinsic
def nanoseconds(typing):
    """A clock that only moves forward."""
    monotonic = 6 if sys.platform == "darwin" else 1

    def emit(context, builder, signature, arguments):
        now = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
        gettime = _function(builder, "clock_gettime", _I32, [_I32, _I8.as_pointer()])
        builder.call(gettime, [_I32(monotonic), builder.bitcast(now, _I8.as_pointer())])
        seconds, rest = (builder.load(builder.gep(now, [_I32(0), _I32(index)])) for index in range(2))
        return builder.add(builder.mul(seconds, _I64(10**9)), rest)

    return _INT(), emit
