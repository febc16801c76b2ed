"""Rows on their way through the experts that were chosen for them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tpi_mpi.kernels.experts.record import Present


class Mixture(Protocol):
    """The rows of a sweep in one layer. The next mixture of the same blocks ends this one.

    chosen: int64 (T, top_k), ascending in each row. shares: float32 (T, top_k), how much each counts.
    wanted: every expert that any row was given to, ascending.
    in_order: whether :meth:`add` must be given them in this order, because there are more results than are kept.
    """

    chosen: np.ndarray
    shares: np.ndarray
    wanted: Sequence[int]
    in_order: bool

    def add(self, some: Sequence[Present]) -> None:
        """Computes some of the wanted experts, each for all of its rows. They may leave memory afterwards."""

    def result(self) -> np.ndarray:
        """The sum (T, width), float32, once all have been added.

        Each row's sum begins with what was there before, and goes on in the order of the experts' numbers, whenever
        and in whatever company they were added: it does not depend on what was in memory.
        """
