"""What a run will be asked for, as far as it is known beforehand; and how many sequences at once serve it best."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.units import MIB
from tpi_mpi.engine.sweep.chunking import most_rows
from tpi_mpi.kernels.kv_cache import PAGE, pages_for
from tpi_mpi.model.room import Room

MOST_SEQUENCES = 64
"""Of what ``--batch auto`` chooses from. More of them are computed hardly faster, each on its own."""

# The most rows of a sweep, and bytes of their hidden states.
_MOST_ROWS, _MOST_BYTES = 1024, 16 * MIB
# Bytes per second that disks and memory deliver, about, and rows that are computed in the time that weights are read
# from memory: only their proportions matter here.
_DISK, _MEMORY, _ROWS = 1e9, 20e9, 8
# Of the best rate, what suffices: the last sequences add little to it, and each takes the longer.
_ENOUGH = 0.9
# Where requests are yet to come: positions of a sequence that there is room for, and the part of them that one takes on
# average; sequences at once; alternatives of scored tokens.
_LONGEST, _AVERAGE, _AT_ONCE, _TOP = 4096, 1 / 4, 16, 5
# Sizes to choose from, between the least room and one where every sequence may be one of the longest.
_PARTS = 4
# Drafted tokens of a sweep, at most, and bytes of the logits of all of them.
_MOST_DRAFTED, _MOST_LOGITS = 64, 16 * MIB


def most_drafted(vocab_size: int) -> int:
    """The most drafted tokens that a sweep should check."""
    return max(1, min(_MOST_DRAFTED, _MOST_LOGITS // (4 * vocab_size)))


@dataclass(frozen=True)
class Demand:
    """longest: positions of the longest sequence. requests: how many there will be. positions: of all together.

    top: None if no prompt is scored; else the most alternatives that any request wants at each position.
    guessed: whether the positions of all together are, so that there may be more.
    """

    longest: int
    requests: int
    positions: int
    top: int | None = None
    guessed: bool = False

    @classmethod
    def of_one(cls, longest: int) -> "Demand":
        """One sequence at a time."""
        return cls(longest, 1, longest)

    @classmethod
    def of_many(cls, longest: int | None, context: int, batch: int | None) -> "Demand":
        """As many requests as may come at once, most of them shorter than the longest; any may be scored.

        longest: positions of a sequence; None for a default, if the context is not less. batch: sequences at once; None
        likewise. Raises UserError if there is to be no room at all.
        """
        if longest is not None and longest < 1:
            raise UserError(f"longest is {longest}; at least 1 position is needed")
        longest, requests = min(longest or _LONGEST, context), batch or _AT_ONCE
        return cls(longest, requests, max(longest, int(requests * longest * _AVERAGE)), _TOP, guessed=True)

    def room(self, sequences: int, hidden_size: int, drafted: int = 0) -> Room:
        """What is needed for so many sequences at once, of average length or one of the longest.

        drafted: the most drafted tokens of a sweep, if there are rows for them.
        """
        average = -(-self.positions // max(1, self.requests)) + PAGE // 2  # half of each last page stays empty
        pages = max(pages_for(self.longest), min(sequences * pages_for(average), sequences * pages_for(self.longest)))
        rows = max(most_rows(hidden_size), min(_MOST_ROWS, _MOST_BYTES // (4 * hidden_size)))
        rows = max(sequences, min(rows, sequences * self.longest))
        return Room(sequences, self.longest, pages, rows, self.top, min(drafted, rows - sequences))

    def rooms(self, sequences: int, hidden_size: int, drafted: int = 0) -> list[Room]:
        """The room that is needed for so many sequences at once, and larger ones that might be of use as well."""
        least = self.room(sequences, hidden_size, drafted)
        most = sequences * pages_for(self.longest) if self.guessed else least.pages
        sizes = {least.pages + (most - least.pages) * part // _PARTS for part in range(_PARTS + 1)}
        return [replace(least, pages=pages) for pages in sorted(sizes)]

    def choices(self, most: int | None) -> list[int]:
        """Numbers of sequences to choose from. most: how many are allowed, or None for what is best."""
        limit = max(1, min(most or MOST_SEQUENCES, self.requests))
        if most is not None:
            return [limit]
        return [count for count in (1, 2, 4, 8, 16, 32) if count < limit] + [limit]


def sweep_seconds(sequences: int, swept: int, streamed: int) -> float:
    """About how long a sweep takes: the bytes of weights that stream, or what is computed meanwhile.

    swept: bytes of weights that a sweep uses. streamed: those of them that are read from the disk.
    """
    return max(streamed / _DISK, swept / _MEMORY * (1 + sequences / _ROWS))


def best(seconds: Mapping[int, float]) -> int:
    """The fewest sequences that nearly reach the best rate. seconds: of a sweep, by the number of sequences."""
    rates = {count: count / taken for count, taken in seconds.items()}
    return min(count for count, rate in rates.items() if rate >= _ENOUGH * max(rates.values()))
