"""Drafts from what has been said before, in the same sequence or another."""

from collections.abc import Hashable

from tpi_mpi.common.options.machine import LOOKUP
from tpi_mpi.engine.drafting.chances import Chances
from tpi_mpi.engine.drafting.draft import Draft
from tpi_mpi.engine.drafting.history import MOST_MATCH, History
from tpi_mpi.engine.schedule.sequence import Sequence

# Tokens that are less likely to be right are not worth looking at.
_LEAST = 0.03


class Lookup:
    """Continues sequences as what they last said has been continued before.

    longest: positions of the longest sequence.
    """

    def __init__(self, longest: int):
        self._history = History(longest)
        self._chances = Chances(_expected)
        self._places: dict[Sequence, list[int]] = {}  # of the first token in the history, and how many are there

    def find(self, sequence: Sequence, count: int) -> Draft:
        """A draft of at most ``count`` tokens, which may have none."""
        draft, first = Draft(LOOKUP), self._remember(sequence)
        found, match = self._history.find(first, sequence.ids, count)
        for place, token_id in enumerate(found):
            sign = min(match + place, MOST_MATCH)
            draft.add(token_id, self._chances.of(sequence, sign), [sign])
            if draft.chance < _LEAST:
                break
        return draft

    def learn(self, sequence: Sequence, draft: Draft, token_ids: list[int]) -> None:
        """Takes note of what a sequence went on with, whether its draft was used or not."""
        self._chances.learn(sequence, draft, token_ids)

    def ended(self, sequence: Sequence) -> None:
        """What it said remains in the history."""
        if sequence in self._places:
            self._remember(sequence)
            del self._places[sequence]

    def _remember(self, sequence: Sequence) -> int:
        """Has the history know all that a sequence has said; returns its place there."""
        if sequence not in self._places:
            self._places[sequence] = [self._history.open(sequence.request.length + 1), 0]
        first, known = self._places[sequence]
        self._history.append(first, known, sequence.ids[known:])
        self._places[sequence][1] = len(sequence.ids)
        return first


def _expected(match: Hashable) -> float:
    """The longer that which was said before is the same, the likelier it goes on alike."""
    return match / (match + 3)
