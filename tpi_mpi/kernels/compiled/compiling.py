"""Functions compiled by other processes, as many at a time as there are cores.

So the memory that Numba and LLVM take to compile is not this process's, which may be bound to a budget. Where Numba has
been imported already, and for less than it takes to start a process, this one compiles.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from tpi_mpi.common.errors import TpiError

Code = dict[str, tuple[str, bytes]]
"""By the key of a function: the symbol and the object file."""


def compiled(functions: Sequence) -> Code:
    """The machine code of functions; see :class:`tpi_mpi.kernels.compiled.library.Source`."""
    if "numba" in sys.modules:
        return compiled_here(functions)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, len(functions))
    started = [_Worker(functions[index::workers]) for index in range(workers)]
    code: Code = {}
    for worker in started:
        code |= worker.code()
    return code


def compiled_here(functions: Sequence) -> Code:
    """The same, by this process."""
    from tpi_mpi.kernels.loops.jit import compiled  # imports Numba

    return {one.key: compiled(one.module, one.name, one.settings, one.arguments) for one in functions}


class _Worker:
    """A process that compiles some functions."""

    def __init__(self, functions: Sequence):
        wanted = [(one.module, one.name, one.settings, one.arguments) for one in functions]
        self._keys = [one.key for one in functions]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, json.dumps(wanted)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def code(self) -> Code:
        """What it compiled. Raises TpiError if it failed."""
        output, errors = self._process.communicate()
        if self._process.returncode:
            last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["it was killed"]
            raise TpiError(f"kernels could not be compiled: {last[0]}")
        code: Code = {}
        for key in self._keys:
            symbol, size, output = output.split(b"\n", 2)
            code[key], output = (symbol.decode(), output[: int(size)]), output[int(size) :]
        return code


_SCRIPT = """
import json, sys
from tpi_mpi.kernels.loops.jit import compiled
for module, name, settings, arguments in json.loads(sys.argv[1]):
    symbol, code = compiled(module, name, tuple(settings), arguments)
    sys.stdout.buffer.write(symbol.encode() + b"\\n%d\\n" % len(code) + code)
"""
