"""What a layer's experts ask of a rank, as far as their sizes tell: experts of average size, all equally popular."""

from dataclasses import dataclass

from tpi_mpi.measurement.matrices import Matrices
from tpi_mpi.measurement.rates import Rates
from tpi_mpi.weights.slabs.experts import LayerExperts


@dataclass(frozen=True)
class Routed:
    """The experts of one layer on one rank.

    count: of all. top_k: of those that a row is given to. nbytes: of one. row: the matrices of one row's.
    """

    count: int
    top_k: int
    nbytes: float
    row: Matrices

    @classmethod
    def of(cls, own: LayerExperts, top_k: int) -> "Routed":
        return cls(len(own), top_k, own.nbytes / len(own), Matrices.of_row([own], top_k))

    def wanted(self, rows: int) -> float:
        """How many experts so many rows are given to, each counted once."""
        return self.count * (1 - (1 - self.top_k / self.count) ** rows)

    @property
    def row_bytes(self) -> float:
        """Bytes of one row's experts."""
        return self.top_k * self.nbytes

    def token_seconds(self, rates: Rates) -> float:
        """Seconds that one row's experts take to compute."""
        return self.row.token_seconds(rates)

    def prompt_seconds(self, rows: int, rates: Rates) -> float:
        """Seconds that the experts of so many rows take to compute."""
        return self.row.shared_seconds(rows, self.wanted(rows) / self.top_k, rates)
