"""Memory that is read for nothing but to see how fast that is; see :mod:`tpi_mpi.kernels.compiled.reading`."""

import numpy as np

from tpi_mpi.kernels.loops.atomics import add
from tpi_mpi.kernels.loops.memory import array_at
from tpi_mpi.kernels.records.reading import ARGUMENTS, COUNT, PIECE, TOTAL, WORDS


def read_pieces(first, stop, address):
    """LLVM keeps several registers of sums for this loop, so that no addition waits for the one before it."""
    head = array_at(address, ARGUMENTS, np.int64)
    start, stop = first * PIECE, min(stop * PIECE, head[COUNT])
    words = array_at(head[WORDS] + 8 * start, stop - start, np.int64)
    total = 0
    for word in words:
        total += word
    add(address + 8 * TOTAL, total)
