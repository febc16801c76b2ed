"""How often a rank's experts were in memory when they were wanted."""

from dataclasses import dataclass


@dataclass
class Counts:
    """So far.

    wanted: experts, each counted once a sweep however many rows are given to it. missed: those of them that were
    neither in memory nor on their way. bytes_wanted, bytes_missed: their bytes.
    guessed: experts that were read because they might be wanted next. guessed_right: those that then were.
    """

    wanted: int = 0
    missed: int = 0
    bytes_wanted: int = 0
    bytes_missed: int = 0
    guessed: int = 0
    guessed_right: int = 0


@dataclass(frozen=True)
class ExpertUsage:
    """Of one rank. kept: experts that stay in memory. all: how many there are. size: bytes of the largest."""

    kept: int
    all: int
    size: int
    counts: Counts

    def to_json(self) -> dict:
        counts = self.counts
        hits = 1 - (counts.missed + counts.guessed_right) / counts.wanted if counts.wanted else None
        own = {"kept": self.kept, "all": self.all, "size": self.size}
        return own | vars(counts) | {"hit_rate": None if hits is None else round(hits, 4)}
