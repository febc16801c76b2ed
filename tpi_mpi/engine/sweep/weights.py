"""Where a sweep gets its weights: blocks in their order, experts as they are asked for."""

from dataclasses import dataclass

from tpi_mpi.weights.experts.cache import ExpertCache
from tpi_mpi.weights.window import SlidingWindow


@dataclass(frozen=True)
class Weights:
    """window: the blocks of every sweep. experts: None if the model has none."""

    window: SlidingWindow
    experts: ExpertCache | None = None
