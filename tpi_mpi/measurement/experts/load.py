"""What one rank's experts ask of it in a run: the least that any program has to do with the same choice of experts."""

from dataclasses import dataclass

from tpi_mpi.measurement.matrices import Matrices
from tpi_mpi.measurement.rates import Rates
from tpi_mpi.weights.experts.counts import Counts
from tpi_mpi.weights.slabs.slab import Slab


@dataclass(frozen=True)
class ExpertLoad:
    """row: the matrices of the experts that one row is given to, of all layers together, with experts of average size.
    wanted: bytes of the experts that the prompt's rows were given to, each counted once.
    missed: bytes of experts that had to be read for a token, on average.
    """

    row: Matrices
    wanted: int
    missed: int

    @classmethod
    def of(cls, slab: Slab, prompt: Counts, tokens: Counts, sweeps: int) -> "ExpertLoad":
        """prompt, tokens: what was counted in the prompt's sweep, and in so many sweeps of one token."""
        row = Matrices.of_row(slab.experts.values(), slab.config.experts.routing.top_k)
        return cls(row, prompt.bytes_wanted, round(tokens.bytes_missed / sweeps))

    @property
    def row_bytes(self) -> int:
        return sum(self.row.nbytes.values())

    def token_seconds(self, rates: Rates) -> float:
        """Seconds that a token's experts take to compute."""
        return self.row.token_seconds(rates)

    def prompt_seconds(self, tokens: int, rates: Rates) -> float:
        """Seconds that a prompt's experts take to compute."""
        return self.row.shared_seconds(tokens, self.wanted / self.row_bytes, rates)

    def to_json(self) -> dict:
        return {"row": self.row.to_json(), "wanted": self.wanted, "missed": self.missed}

    @classmethod
    def from_json(cls, value: dict) -> "ExpertLoad":
        return cls(Matrices.from_json(value["row"]), value["wanted"], value["missed"])
