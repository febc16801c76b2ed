"""How many experts a slab has, how large they are, and how many of them a token needs."""

from dataclasses import dataclass

from tpi_mpi.weights.slabs.slab import Slab

_LEAST = 2
"""With fewer slots, none could be filled while another is computed."""


@dataclass(frozen=True)
class ExpertSizes:
    """layers: that have experts. count: of each layer. top_k: of them that a row is given to. size: bytes of a slot."""

    layers: int
    count: int
    top_k: int
    size: int

    @classmethod
    def of(cls, slab: Slab) -> "ExpertSizes | None":
        """None if the model has no experts."""
        if not slab.experts:
            return None
        routing = slab.config.experts.routing
        largest = max(own.largest for own in slab.experts.values())
        return cls(len(slab.experts), routing.experts, routing.top_k, largest)

    @property
    def most(self) -> int:
        """Slots for all experts of all layers."""
        return self.layers * self.count

    @property
    def least(self) -> int:
        """Slots without which nothing works."""
        return min(_LEAST, self.most)

    @property
    def good(self) -> int:
        """Slots for all that a row is given to, so that they are read together."""
        return max(self.least, self.top_k)

    def sweep_bytes(self, rows: int) -> float:
        """Bytes of the experts that a sweep of some rows uses, if all are equally popular."""
        unused = (1 - self.top_k / self.count) ** rows
        return self.most * self.size * (1 - unused)
