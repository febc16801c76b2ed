"""What becomes of the logits of a sweep: whole rows to choose a token from, or scores of tokens that are given."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tpi_mpi.engine.request import Score


@dataclass(frozen=True)
class Want:
    """What is wanted of a row. target: the token that is scored, or None where all logits are. top: how many of the
    most probable tokens are, with a target."""

    target: int | None = None
    top: int = 0


class Readout:
    """Takes the logits slice by slice of the vocabulary, so that those of a long prompt never exist at once.

    logits: float32 (rows without a target, vocab_size), in order.
    """

    def __init__(self, wants: Sequence[Want], vocab_size: int):
        self._wants = wants
        whole = [row for row, want in enumerate(wants) if want.target is None]
        self._places = {row: place for place, row in enumerate(whole)}
        self._scorers = {row: _Scorer(want) for row, want in enumerate(wants) if want.target is not None}
        self.logits = np.empty((len(whole), vocab_size), np.float32)

    def take(self, first_row: int, first_id: int, logits: np.ndarray) -> None:
        """Logits (n, s) of the rows from ``first_row`` on, for the tokens from ``first_id`` on, slice by slice."""
        for row, own in enumerate(logits, first_row):
            if row in self._places:
                self.logits[self._places[row], first_id : first_id + len(own)] = own
            else:
                self._scorers[row].take(first_id, own)

    def scores(self) -> list[Score | None]:
        """The scores of all rows; None of those whose logits are wanted."""
        return [self._scorers[row].score() if row in self._scorers else None for row in range(len(self._wants))]


class _Scorer:
    """The log-probability of one token, and the most probable tokens, from logits that come in slices."""

    def __init__(self, want: Want):
        self._want = want
        self._largest, self._sum, self._logit = -np.inf, 0.0, 0.0
        self._ids, self._top = np.empty(0, np.int64), np.empty(0, np.float32)

    def take(self, first_id: int, logits: np.ndarray) -> None:
        largest = max(self._largest, float(logits.max()))
        own = float(np.exp(logits - np.float32(largest)).sum(dtype=np.float64))
        self._sum = self._sum * float(np.exp(self._largest - largest)) + own
        self._largest = largest
        if first_id <= self._want.target < first_id + len(logits):
            self._logit = float(logits[self._want.target - first_id])
        if self._want.top:
            ids = most_probable(logits, self._want.top)
            ids, top = np.concatenate([self._ids, ids + first_id]), np.concatenate([self._top, logits[ids]])
            order = most_probable(top, self._want.top)
            self._ids, self._top = ids[order], top[order]

    def score(self) -> Score:
        total = self._largest + float(np.log(self._sum))
        top = tuple((int(id), float(logit) - total) for id, logit in zip(self._ids, self._top, strict=True))
        return Score(self._want.target, self._logit - total, top)


def most_probable(logits: np.ndarray, count: int) -> np.ndarray:
    """The places of the highest logits (n,), the highest first, and of equal ones the first."""
    if count == 0:
        return np.empty(0, np.int64)
    place = max(0, len(logits) - count)
    candidates = np.flatnonzero(logits >= np.partition(logits, place)[place])
    return candidates[np.argsort(-logits[candidates], kind="stable")][:count]
