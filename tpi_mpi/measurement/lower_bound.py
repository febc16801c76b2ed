"""The lower bound of a run: the least time that any program can take, from bytes, rates and messages alone.

Reading overlaps with computing and communicating, so the longer of the two counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tpi_mpi.measurement.rates import Rates, shared_disks


@dataclass(frozen=True)
class RankLoad:
    """What one rank has to do, and how fast it can.

    host: where it runs. weights: bytes of all its blocks. elements: how many weights these are. streamed: bytes of the
        blocks that are not pinned.
    """

    host: str
    weights: int
    elements: int
    streamed: int
    rates: Rates


@dataclass(frozen=True)
class LowerBound:
    """The lower bound of one sweep, in seconds; each part is the slowest rank's.

    memory: for reading the weights from memory, which is a part of compute.
    overlap: whether allreduces overlap with computing, as reading does.
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

    def to_json(self) -> dict[str, float]:
        parts = {f"{name}_s": round(getattr(self, name), 6) for name in ("read", "compute", "allreduce", "memory")}
        return {"total_s": round(self.total, 6), **parts, "overlap": self.overlap}


def token_bound(ranks: Sequence[RankLoad], blocks: int, allreduce: float) -> LowerBound:
    """For one decoded token. blocks: how many are followed by an allreduce. allreduce: the seconds of each."""
    return LowerBound(
        read=_reading(ranks, [rank.streamed for rank in ranks]),
        compute=max(rank.weights / rank.rates.vector for rank in ranks),
        allreduce=blocks * allreduce,
        memory=max(rank.weights / rank.rates.memory for rank in ranks),
    )


def prompt_bound(
    ranks: Sequence[RankLoad], tokens: int, blocks: int, allreduce: float, overlap: bool = False
) -> LowerBound:
    """For a prompt of ``tokens`` tokens, when no weights are in memory yet.

    blocks: how many are followed by an allreduce. allreduce: the seconds of one, all chunks together.
    overlap: whether one chunk is computed while another is summed.
    """
    return LowerBound(
        read=_reading(ranks, [rank.weights for rank in ranks]),
        compute=max(2 * tokens * rank.elements / rank.rates.prompt for rank in ranks),
        allreduce=blocks * allreduce,
        memory=max(rank.weights / rank.rates.memory for rank in ranks),
        overlap=overlap,
    )


def _reading(ranks: Sequence[RankLoad], amounts: Sequence[int]) -> float:
    """Seconds until every rank has read its bytes."""
    rates = shared_disks([rank.host for rank in ranks], [rank.rates for rank in ranks], amounts)
    return max(nbytes / rate for nbytes, rate in zip(amounts, rates, strict=True))
