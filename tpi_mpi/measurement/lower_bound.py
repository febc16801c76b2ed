"""The lower bound of a run: the least time that any program can take, from bytes, rates and messages alone.

Reading overlaps with computing and communicating, so the longer of the two counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tpi_mpi.measurement.experts.load import ExpertLoad
from tpi_mpi.measurement.matrices import Matrices
from tpi_mpi.measurement.rates import Rates, shared_disks


@dataclass(frozen=True)
class RankLoad:
    """What one rank has to do, and how fast it can.

    host: where it runs. weights: bytes of all its blocks. streamed: bytes of those that are not pinned.
    layers, head: the matrices of the layers, and of the output head, which sees one row of a prompt.
    experts: None if the model has none.
    """

    host: str
    weights: int
    streamed: int
    layers: Matrices
    head: Matrices
    rates: Rates
    experts: ExpertLoad | None = None

    @property
    def token_weights(self) -> int:
        """Bytes of weights that a token needs."""
        return self.weights + (self.experts.row_bytes if self.experts else 0)

    @property
    def prompt_weights(self) -> int:
        """Bytes of weights that the prompt needs."""
        return self.weights + (self.experts.wanted if self.experts else 0)

    @property
    def missing(self) -> int:
        """Bytes of weights that have to be read for a token."""
        return self.streamed + (self.experts.missed if self.experts else 0)

    def token_seconds(self) -> float:
        """Seconds that a token takes to compute."""
        experts = self.experts.token_seconds(self.rates) if self.experts else 0.0
        return self.layers.token_seconds(self.rates) + experts + self.head.token_seconds(self.rates)

    def prompt_seconds(self, tokens: int) -> float:
        """Seconds that a prompt takes to compute."""
        experts = self.experts.prompt_seconds(tokens, self.rates) if self.experts else 0.0
        return self.layers.prompt_seconds(tokens, self.rates) + experts + self.head.token_seconds(self.rates)

    def to_json(self) -> dict:
        amounts = {"host": self.host, "weights": self.weights, "streamed": self.streamed}
        matrices = {"layers": self.layers.to_json(), "head": self.head.to_json()}
        return amounts | matrices | {"experts": self.experts and self.experts.to_json()} | self.rates.to_json()

    @classmethod
    def from_json(cls, value: dict) -> "RankLoad":
        layers, head = (Matrices.from_json(value[name]) for name in ("layers", "head"))
        experts = value["experts"] and ExpertLoad.from_json(value["experts"])
        return cls(value["host"], value["weights"], value["streamed"], layers, head, Rates.from_json(value), experts)


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
    """For one decoded token, of whose experts as many are in memory as were.

    blocks: how many are followed by an allreduce. allreduce: the seconds of each.
    """
    return LowerBound(
        read=_reading(ranks, [rank.missing for rank in ranks]),
        compute=max(rank.token_seconds() for rank in ranks),
        allreduce=blocks * allreduce,
        memory=max(rank.token_weights / rank.rates.memory for rank in ranks),
    )


def prompt_bound(
    ranks: Sequence[RankLoad], tokens: int, blocks: int, allreduce: float, overlap: bool = False
) -> LowerBound:
    """For a prompt of ``tokens`` tokens, when no weights are in memory yet.

    blocks: how many are followed by an allreduce. allreduce: the seconds of one, all chunks together.
    overlap: whether one chunk is computed while another is summed.
    """
    return LowerBound(
        read=_reading(ranks, [rank.prompt_weights for rank in ranks]),
        compute=max(rank.prompt_seconds(tokens) for rank in ranks),
        allreduce=blocks * allreduce,
        memory=max(rank.prompt_weights / rank.rates.memory for rank in ranks),
        overlap=overlap,
    )


def _reading(ranks: Sequence[RankLoad], amounts: Sequence[int]) -> float:
    """Seconds until every rank has read its bytes."""
    rates = shared_disks([rank.host for rank in ranks], [rank.rates for rank in ranks], amounts)
    return max(nbytes / rate for nbytes, rate in zip(amounts, rates, strict=True))
