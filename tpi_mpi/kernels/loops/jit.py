"""The decorators of functions that Numba compiles; and from such a function to machine code that stands by itself."""

from collections.abc import Callable
from importlib import import_module

import numba
from llvmlite import binding
from numba import types

from tpi_mpi.common.errors import TpiError
from tpi_mpi.kernels.cpu import compiled_for
from tpi_mpi.kernels.records.symbols import NEVER_CALLED, OF_THE_SYSTEM


def helper(function: Callable) -> Callable:
    """A function that compiled functions call, with arguments of any types, as a part of theirs."""
    return numba.njit(error_model="numpy")(function)


def reordering(function: Callable) -> Callable:
    """The same, with sums in whatever order is fast: always the same one, but not that of the source."""
    return numba.njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})(function)


def machine_code(symbol: str, module: str, name: str, settings: tuple, arguments: int) -> bytes:
    """A function as an object file, in which it has this symbol. It takes int64, and returns nothing.

    module: of :mod:`tpi_mpi.kernels.loops`. settings: what a function of that name, which makes one, is called with.
    Raises TpiError if the code would need something that only Numba provides.
    """
    _, numba.config.CPU_NAME, numba.config.CPU_FEATURES = compiled_for()  # or Numba might choose others than the table
    source = getattr(import_module(f"tpi_mpi.kernels.loops.{module}"), name)
    function = source(*settings) if settings else getattr(source, "py_func", source)
    made = numba.cfunc(types.void(*[types.int64] * arguments), nopython=True, error_model="numpy")(function)
    return _emitted(made.inspect_llvm(), made.native_name, symbol)


def _emitted(code: str, found: str, symbol: str) -> bytes:
    """The object file of a module, in which nothing but one function can be seen from outside, under another name.

    Numba gives functions of several files the same names; none must be taken for another.
    """
    triple, name, features = compiled_for()
    machine = binding.Target.from_triple(triple).create_target_machine(
        cpu=name, features=features, opt=3, reloc="default", codemodel="jitdefault", jit=True
    )
    module = binding.parse_assembly(code)
    for function in module.functions:
        if function.is_declaration and not _provided(function.name):
            raise TpiError(f"{symbol} calls {function.name}, which nobody provides without Numba")
        if function.name == found:
            function.name = symbol
        elif not function.is_declaration:
            function.linkage = "internal"
    return machine.emit_object(module)


def _provided(name: str) -> bool:
    return name in (*NEVER_CALLED, *OF_THE_SYSTEM) or name.startswith(("llvm.", "Py"))
