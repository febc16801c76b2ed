"""Memory that is read by the threads of a pool for nothing but to see how fast that is.

Threads claim pieces, so that none is idle before all is read. With a fixed share for each, the slowest would be waited
for, and memory would seem slower than it is.
"""

import numpy as np

from tpi_mpi.kernels.compiled import functions
from tpi_mpi.kernels.records.reading import PIECE, TOTAL


def read(control: int, words: np.ndarray) -> int:
    """Reads contiguous int64 words (n,) on the threads of a pool; returns their sum, modulo 2^64.

    control: the pool's.
    """
    arguments = np.array([words.ctypes.data, len(words), 0], np.int64)
    functions.RUN.call(control, functions.READ_PIECES.address, arguments.ctypes.data, -(-len(words) // PIECE), 1)
    return int(arguments[TOTAL])
