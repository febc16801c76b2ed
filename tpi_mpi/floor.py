"""The floor of a run: the time below which no program could be, from bytes, rates and messages alone.

Reading goes on behind computing and communicating, so the longer of the two counts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RankRates:
    """What one rank has to do, and how fast it can while the others do it too.

    host: where it runs. weights: bytes of all its blocks. elements: numbers in them. streamed: bytes of those that
        are not pinned.
    read, memory, vector: bytes a second that it reads from its slab, reads from memory, and multiplies with one
        row. prompt: floating-point operations a second of products with the rows of a chunk.
    """

    host: str
    weights: int
    elements: int
    streamed: int
    read: float
    memory: float
    vector: float
    prompt: float


@dataclass(frozen=True)
class Floor:
    """Seconds of one sweep, each the slowest rank's.

    memory: of reading the weights from memory, a part of compute.
    overlap: whether allreduces go on behind computing, as reading does.
    """

    read: float
    compute: float
    allreduce: float
    memory: float
    overlap: bool = False

    @property
    def total(self) -> float:
        parts = (self.compute, self.allreduce)
        return max(self.read, max(parts) if self.overlap else sum(parts))


def token_floor(ranks: Sequence[RankRates], blocks: int, allreduce: float) -> Floor:
    """Of one decoded token. blocks: after how many an allreduce comes; allreduce: the seconds of each."""
    return Floor(
        read=_reading(ranks, [rank.streamed for rank in ranks]),
        compute=max(rank.weights / rank.vector for rank in ranks),
        allreduce=blocks * allreduce,
        memory=max(rank.weights / rank.memory for rank in ranks),
    )


def prompt_floor(
    ranks: Sequence[RankRates], tokens: int, blocks: int, allreduce: float, overlap: bool = False
) -> Floor:
    """Of a prompt of so many tokens, nothing being in memory yet.

    allreduce: the seconds of all chunks together. overlap: whether one is computed while another is added up.
    """
    return Floor(
        read=_reading(ranks, [rank.weights for rank in ranks]),
        compute=max(2 * tokens * rank.elements / rank.prompt for rank in ranks),
        allreduce=blocks * allreduce,
        memory=max(rank.weights / rank.memory for rank in ranks),
        overlap=overlap,
    )


def _reading(ranks: Sequence[RankRates], amounts: Sequence[int]) -> float:
    """Seconds until all have read their bytes: ranks of one host share its disk, and what one leaves others get."""
    amount, rate = Counter(), Counter()
    for rank, nbytes in zip(ranks, amounts, strict=True):
        amount[rank.host] += nbytes
        rate[rank.host] += rank.read
    return max(amount[host] / rate[host] for host in rate)
