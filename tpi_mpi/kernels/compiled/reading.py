"""Memory that is read by the threads of a pool for nothing but to see how fast that is.

Threads claim pieces, so that none is idle before all is read. With a fixed share for each, the slowest would be waited
for, and memory would seem slower than it is.
"""

from functools import cache

import numpy as np

from tpi_mpi.kernels.compiled.atomics import add
from tpi_mpi.kernels.compiled.jit import kernel_address
from tpi_mpi.kernels.compiled.memory import array_at
from tpi_mpi.kernels.compiled.pool import run

_PIECE = 1 << 17
"""Words of 64 bits that a thread claims at a time: 1 MiB."""

(
    WORDS,  # address
    COUNT,  # of the words
    TOTAL,  # the sum of those that have been read
    ARGUMENTS,
) = range(4)
"""The places of the arguments, and how many there are."""


def read(control: int, words: np.ndarray) -> int:
    """Reads contiguous int64 words (n,) on the threads of a pool; returns their sum, modulo 2^64.

    control: the pool's.
    """
    arguments = np.array([words.ctypes.data, len(words), 0], np.int64)
    run(control, _reader(), arguments.ctypes.data, -(-len(words) // _PIECE), 1)
    return int(arguments[TOTAL])


@cache
def _reader() -> int:
    return kernel_address(_read_pieces)


def _read_pieces(first, stop, address):
    """LLVM keeps several registers of sums for this loop, so that no addition waits for the one before it."""
    head = array_at(address, ARGUMENTS, np.int64)
    start, stop = first * _PIECE, min(stop * _PIECE, head[COUNT])
    words = array_at(head[WORDS] + 8 * start, stop - start, np.int64)
    total = 0
    for word in words:
        total += word
    add(address + 8 * TOTAL, total)
