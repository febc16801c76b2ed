"""An embedding and an output head that make a random model with experts use them as a trained one does.

The rows of the embedding are so large that they are most of what any later layer sees. A router multiplies them with
its own random weights, so what a row has in common with others, its choice of experts has in common with theirs:

- a part that all rows share: some experts of a layer are chosen more often than others (skew);
- a part that changes little from one id to the next: experts of one token are chosen for the next (persistence).

The head's row of each id is the second part of the id before. So a greedy continuation counts: each token is followed
by the next id, and after the last by the first. It skips the ids that end a sequence, or it would end there.
"""

import numpy as np

from tpi_mpi.model.config import ModelConfig
from weights_tools.synthesis.habits import Habits

# The rows of the embedding, over those of other matrices: some 64 over 0.02. Each random layer adds about 1 to 3.
_LOUDNESS = 3200.0
# After so many ids what changes begins anew, so that a row can be made without all before it.
_RUN = 256


class Planted:
    """The rows of both matrices, in standard deviations of other weights: the same for the same seed and id."""

    def __init__(self, config: ModelConfig, habits: Habits, seed: int):
        self._habits, self._seed, self._width = habits, seed, config.hidden_size
        self._shared = np.random.default_rng((seed, config.vocab_size)).standard_normal(self._width, np.float32)
        self._ends = np.isin(np.arange(config.vocab_size), config.eos_token_id)
        going_on = np.flatnonzero(~self._ends)
        self._before = np.arange(config.vocab_size)
        self._before[going_on] = np.roll(going_on, 1)

    def embedding(self, first: int, count: int) -> np.ndarray:
        """(count, hidden size), float32, from this id on."""
        shared, rest = np.sqrt([self._habits.skew, 1 - self._habits.skew]).astype(np.float32) * np.float32(_LOUDNESS)
        return rest * self._changing(np.arange(first, first + count)) + shared * self._shared

    def head(self, first: int, count: int) -> np.ndarray:
        """Like :meth:`embedding`; zeros for the ids that end a sequence."""
        rows = self._changing(self._before[first : first + count])
        rows[self._ends[first : first + count]] = 0
        return rows

    def _changing(self, ids: np.ndarray) -> np.ndarray:
        rows = np.empty((len(ids), self._width), np.float32)
        runs = ids // _RUN
        for run in np.unique(runs):
            own = np.flatnonzero(runs == run)
            rows[own] = self._run(run)[ids[own] % _RUN]
        return rows

    def _run(self, run: int) -> np.ndarray:
        """(256, hidden size): each row the one before, a little changed, and all of them of deviation 1."""
        rows = np.random.default_rng((self._seed, 0, run)).standard_normal((_RUN, self._width), np.float32)
        kept = np.float32(self._habits.persistence)
        rows[1:] *= np.sqrt(1 - kept**2)
        for row in range(1, _RUN):
            rows[row] += kept * rows[row - 1]
        return rows
