"""Memory is read to the end, each word once, whoever reads it."""

import numpy as np
import pytest

from tpi_mpi.kernels import reader
from tpi_mpi.kernels.reader import open_reader


@pytest.mark.parametrize("count", [1, 1000, 1 << 17, (3 << 17) + 5])
@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_the_sum_is_that_of_all_words(count, threads, monkeypatch):
    if threads is None:
        monkeypatch.setattr(reader, "kernels_available", lambda: False)
    words = np.random.default_rng(count).integers(-(2**62), 2**62, count)  # the sum wraps around
    with open_reader(threads or 1) as read:
        assert read(words) == words.sum()
