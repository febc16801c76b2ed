"""How likely drafted tokens are right, as far as has been seen: by what can be known of them beforehand."""

from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

from tpi_mpi.engine.drafting.draft import Draft
from tpi_mpi.engine.schedule.sequence import Sequence

# What each later observation of the same kind takes from the weight of an earlier one.
_FADING = 0.97
# What counts for as many observations of one sequence as these: all sequences; and of all, what is expected at first.
_ALL, _FIRST = 4.0, 8.0


class Chances:
    """The chance that a token is right if those before it are: learned for each sequence, and over all of them.

    expected: what is expected of tokens with a sign before any were seen.
    """

    def __init__(self, expected: Callable[[Hashable], float]):
        self._all = _Shares(expected, _FIRST)
        self._own: WeakKeyDictionary[Sequence, _Shares] = WeakKeyDictionary()

    def of(self, sequence: Sequence, sign: Hashable) -> float:
        """That a token of a sequence is right."""
        own = self._own.get(sequence, self._all)
        return own.of(sign)

    def learn(self, sequence: Sequence, draft: Draft, token_ids: list[int]) -> None:
        """Takes note of how far a draft was right, now that the tokens are known."""
        own, right = self._own.setdefault(sequence, _Shares(self._all.of, _ALL)), draft.right(token_ids)
        for place, signs in enumerate(draft.signs[: min(right + 1, len(token_ids))]):
            for sign in signs:
                own.note(sign, place < right)
                self._all.note(sign, place < right)


class _Shares:
    """The share of tokens that were right, by sign. weight: how many observations what is expected counts for."""

    def __init__(self, expected: Callable[[Hashable], float], weight: float):
        self._expected, self._weight = expected, weight
        self._seen: dict[Hashable, tuple[float, float]] = {}

    def of(self, sign: Hashable) -> float:
        right, count = self._seen.get(sign, (0.0, 0.0))
        return (right + self._weight * self._expected(sign)) / (count + self._weight)

    def note(self, sign: Hashable, right: bool) -> None:
        right_before, count = self._seen.get(sign, (0.0, 0.0))
        self._seen[sign] = _FADING * right_before + right, _FADING * count + 1
