"""Functions compiled by other processes, as many at a time as cores and memory allow.

So the memory that Numba and LLVM take to compile is not this process's, which may be bound to a budget. Where Numba has
been imported already, this process compiles, which takes less time than starting another.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from tpi_mpi.common.errors import TpiError
from tpi_mpi.common.memory import available
from tpi_mpi.common.units import MIB

# What a process that compiles takes.
_MEMORY = 320 * MIB

Code = dict[str, bytes]
"""By the key of a function, which is its symbol there: an object file."""


def compile_all(functions: Sequence) -> Code:
    """The machine code of functions; see :class:`tpi_mpi.kernels.compiled.library.Source`.

    Raises TpiError if one cannot be compiled.
    """
    if "numba" in sys.modules:
        return _compile_here(functions)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(1, min(cores, len(functions), available() // _MEMORY))
    workers = [_Worker(functions[index::count]) for index in range(count)]
    try:
        return {key: code for worker in workers for key, code in worker.results()}
    finally:
        for worker in workers:
            worker.end()


def _compile_here(functions: Sequence) -> Code:
    from tpi_mpi.kernels.loops.jit import machine_code  # imports Numba

    return {one.key: machine_code(one.key, one.module, one.name, one.settings, one.arguments) for one in functions}


class _Worker:
    """A process that compiles some functions, and writes all of their code when it is done."""

    def __init__(self, functions: Sequence):
        self._keys = [one.key for one in functions]
        wanted = [(one.key, one.module, one.name, one.settings, one.arguments) for one in functions]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, json.dumps(wanted)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def results(self) -> Iterator[tuple[str, bytes]]:
        output, errors = self._process.communicate()
        if self._process.returncode:
            last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["the compiler was killed"]
            raise TpiError(f"kernels could not be compiled: {last[0]}")
        for key in self._keys:
            size, output = output.split(b"\n", 1)
            yield key, output[: int(size)]
            output = output[int(size) :]

    def end(self) -> None:
        """Ends the process, if it still runs after an error of another."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


_SCRIPT = """
import json, sys
from tpi_mpi.kernels.loops.jit import machine_code
done = [machine_code(*one[:3], tuple(one[3]), one[4]) for one in json.loads(sys.argv[1])]
sys.stdout.buffer.write(b"".join(b"%d\\n" % len(code) + code for code in done))
"""
