"""The experts of a layer, on this rank: chosen, fetched, computed."""

from itertools import pairwise

import numpy as np

from tpi_mpi.common.trace import Trace
from tpi_mpi.kernels.operand import Tensors
from tpi_mpi.model.blocks import Block
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.weights.experts.cache import ExpertCache

# Where rows choose so many times as there are experts, hardly any is left out.
_EACH_WANTED = 4


class Mixtures:
    """Computes with the experts that routers choose, as they arrive in memory."""

    def __init__(self, model: ModelShard, experts: ExpertCache | None, trace: Trace):
        self._model, self._experts, self._trace = model, experts, trace
        self._after = dict(pairwise(experts.shares)) if experts else {}

    def partial(self, block: Block, weights: Tensors, hidden: np.ndarray) -> np.ndarray:
        """The partial of a layer's experts, from hidden states (T, hidden_size).

        block: the router's, and its weights.
        """
        with self._trace.span("compute", block.name):
            mixture = self._model.mixture(weights, hidden)
        value = _by_value(mixture.chosen)
        for some in self._experts.fetch(block.layer, mixture.wanted, mixture.in_order, value):
            with self._trace.span("compute", block.name):
                mixture.add(some)
        self._expect_all_of(self._after.get(block.layer), mixture.chosen)
        with self._trace.span("compute", block.name):
            return mixture.result()

    def _expect_all_of(self, layer: int | None, chosen: np.ndarray) -> None:
        """After a long prompt's turn in a layer, the disk goes on with the next one's: of many rows, some want each."""
        experts = self._model.config.experts.count
        if layer is not None and chosen.size >= _EACH_WANTED * experts:
            self._experts.guess(layer, range(experts))


def _by_value(chosen: np.ndarray) -> list[int]:
    """The chosen experts, those last that are most worth keeping: those of the last row, and of many rows.

    The next token's are most like those of the last one.
    """
    if len(chosen) == 1:
        return chosen[0].tolist()
    rows = np.bincount(chosen.reshape(-1))
    rows[chosen[-1]] += len(chosen)
    order = np.argsort(rows, kind="stable")
    return order[rows[order] > 0].tolist()
