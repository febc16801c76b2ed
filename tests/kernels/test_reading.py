"""Memory is read to the end, each word once, whoever reads it."""

import numpy as np
import pytest

from tpi_mpi.kernels.compiled.multiplier import Multiplier
from tpi_mpi.kernels.fallback import Fallback


@pytest.mark.parametrize("count", [1, 1000, 1 << 17, (3 << 17) + 5])
@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_the_sum_is_that_of_all_words(count, threads):
    words = np.random.default_rng(count).integers(-(2**62), 2**62, count)  # the sum wraps around
    with Multiplier(threads, 2) if threads else Fallback() as linear:
        assert linear.read(words) == words.sum()
