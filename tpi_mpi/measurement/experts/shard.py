"""The experts that a partition gives a rank: how many stay in memory, and what a sweep asks of the others."""

from collections.abc import Mapping
from dataclasses import dataclass

from tpi_mpi.measurement.experts.hits import assumed_hit_rate
from tpi_mpi.measurement.experts.routed import Routed
from tpi_mpi.measurement.rates import Rates
from tpi_mpi.measurement.simulator import Asked
from tpi_mpi.model.blocks import router_name
from tpi_mpi.weights.experts.shares import shares
from tpi_mpi.weights.experts.sizes import ExpertSizes
from tpi_mpi.weights.slabs.slab import Slab


@dataclass(frozen=True)
class ShardExperts:
    """layers: the experts of each, by the name of the block that chooses among them; none if the model is dense.
    sizes: None then.
    """

    layers: Mapping[str, Routed]
    sizes: ExpertSizes | None

    @classmethod
    def of(cls, slab: Slab) -> "ShardExperts":
        top_k = slab.config.experts.routing.top_k if slab.experts else 0
        layers = {router_name(layer): Routed.of(own, top_k) for layer, own in slab.experts.items()}
        return cls(layers, ExpertSizes.of(slab))

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return round(sum(own.count * own.nbytes for own in self.layers.values()))

    @property
    def row_bytes(self) -> float:
        """Bytes of those that a row is given to."""
        return sum(own.row_bytes for own in self.layers.values())

    def kept(self, slots: int) -> int:
        """How many stay in so many slots."""
        return sum(shares(slots, range(len(self.layers)), self.sizes).values()) if self.sizes else 0

    def hit_rate(self, slots: int, given: float | None = None) -> float:
        """The part of a token's experts that are in memory. given: that part, unless all of them are there."""
        if not self.sizes or self.kept(slots) == self.sizes.most:
            return 1.0
        return assumed_hit_rate(self.kept(slots) / self.sizes.most) if given is None else given

    def to_json(self, slots: int) -> dict | None:
        """What so many slots hold of them; None if there are none."""
        if not self.sizes:
            return None
        own = {"kept": self.kept(slots), "all": self.sizes.most, "size": self.sizes.size}
        return own | {"assumed_hit_rate": round(self.hit_rate(slots), 4)}

    def prompt_bytes(self, rows: int) -> float:
        """Bytes of those that so many rows are given to."""
        return sum(own.wanted(rows) * own.nbytes for own in self.layers.values())

    def of_token(self, hit_rate: float, rates: Rates) -> dict[str, Asked]:
        """What a token asks for, by block."""
        return {
            name: Asked(own.row_bytes * (1 - hit_rate), own.token_seconds(rates)) for name, own in self.layers.items()
        }

    def of_prompt(self, rows: int, rates: Rates) -> dict[str, Asked]:
        """What a prompt asks for, by block, when no expert is in memory yet."""
        return {
            name: Asked(own.wanted(rows) * own.nbytes, own.prompt_seconds(rows, rates))
            for name, own in self.layers.items()
        }
