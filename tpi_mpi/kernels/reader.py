"""Memory that is read for nothing but to see how fast that is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np

from tpi_mpi.kernels.linear import kernels_available


@contextmanager
def open_reader(threads: int) -> Iterator[Callable[[np.ndarray], int]]:
    """What reads int64 words (n,) as fast as memory delivers them, and returns their sum, modulo 2^64.

    threads: that read, the caller's included; where there are no kernels, it reads alone.
    """
    if not kernels_available():
        yield lambda words: int(words.sum())
        return
    from tpi_mpi.kernels.compiled.pool import Pool
    from tpi_mpi.kernels.compiled.reading import read

    with Pool(threads) as pool:
        yield partial(read, pool.control)
