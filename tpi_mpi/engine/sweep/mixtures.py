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

    def partial(self, block: Block, weights: Tensors, hidden: np.ndarray, wanted: int) -> np.ndarray:
        """The partial of a layer's experts, from hidden states (T, hidden_size).

        block: the router's, and its weights. wanted: how many rows the last layer is computed for.
        """
        with self._trace.span("compute", block.name):
            mixture = self._model.mixture(weights, hidden)
        value = _by_value(mixture.chosen)
        for some in self._experts.fetch(block.layer, mixture.wanted, mixture.in_order, value):
            with self._trace.span("compute", block.name):
                mixture.add(some)
        self._read_all_after(block, len(hidden), wanted)
        with self._trace.span("compute", block.name):
            return mixture.result()

    def _read_all_after(self, block: Block, rows: int, wanted: int) -> None:
        """After a long prompt's turn in a layer, the disk goes on with the next one's: of many rows, some want each."""
        following, routing = self._after.get(block.layer), self._model.config.experts.routing
        if following and self._rows_of(following, rows, wanted) * routing.top_k >= _EACH_WANTED * routing.experts:
            self._experts.read_ahead(following.layer, range(routing.experts))

    def guess_after(self, block: Block, hidden: np.ndarray, wanted: int) -> None:
        """Has the disk begin with what the next router would choose for the hidden states (T, hidden_size) of now.

        Until its turn they change by what lies between, mostly one attention block, which often leaves the choice as it
        is.
        """
        following = self._after.get(block.layer)
        if following is None or not 0 < self._rows_of(following, len(hidden), wanted) <= _GUESSED_ROWS:
            return
        weights = self._window.peek(following.name)
        if weights and self._experts.worth_guessing(following.layer):
            with self._trace.span("compute", following.name):
                chosen = self._model.choice(weights, hidden[-_GUESSED_ROWS:])
            self._experts.guess(following.layer, dict.fromkeys(chosen.reshape(-1).tolist()))

    def _rows_of(self, block: Block, rows: int, wanted: int) -> int:
        """How many of the rows a block is computed for."""
        return wanted if block.layer == self._model.config.num_hidden_layers - 1 else rows


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
