"""The experts of a layer, on this rank: chosen, fetched, computed."""

from itertools import pairwise

import numpy as np

from tpi_mpi.common.trace import Trace
from tpi_mpi.engine.sweep.weights import Weights
from tpi_mpi.kernels.operand import Tensors
from tpi_mpi.model.blocks import Block, Kind
from tpi_mpi.model.transformer import ModelShard

# Where rows choose so many times as there are experts, hardly any is left out.
_EACH_WANTED = 4
# Sweeps of more rows keep the disk busy as it is.
_GUESSED_ROWS = 4


class Mixtures:
    """Computes with the experts that routers choose, as they arrive in memory."""

    def __init__(self, model: ModelShard, weights: Weights, trace: Trace):
        self._model, self._window, self._experts, self._trace = model, weights.window, weights.experts, trace
        routers = [block for block in model.blocks if block.kind is Kind.ROUTER]
        self._after = {block.layer: following for block, following in pairwise(routers)}

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
        if mixture.chosen.size >= _EACH_WANTED * self._model.config.experts.count:
            self._read_all_after(block)
        with self._trace.span("compute", block.name):
            return mixture.result()

    def _read_all_after(self, block: Block) -> None:
        """After a long prompt's turn in a layer, the disk goes on with the next one's: of many rows, some want each."""
        if following := self._after.get(block.layer):
            self._experts.guess(following.layer, range(self._model.config.experts.count))

    def guess_after(self, block: Block, hidden: np.ndarray) -> None:
        """Has the disk begin with what the next router would choose for the hidden states (T, hidden_size) of now.

        Until its turn they change by one attention block, which often leaves the choice as it is.
        """
        following = self._after.get(block.layer)
        if following is None or len(hidden) > _GUESSED_ROWS or not self._experts.worth_guessing(following.layer):
            return
        if weights := self._window.peek(following.name):
            with self._trace.span("compute", following.name):
                chosen = self._model.choice(weights, hidden)
            self._experts.guess(following.layer, dict.fromkeys(chosen.reshape(-1).tolist()))


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
