"""How often a rank's experts were in memory when they were wanted."""

from dataclasses import dataclass


@dataclass
class Counts:
    """So far.

    wanted: experts, each counted once a sweep however many rows are given to it. missed: those of them that had to be
    read. bytes_wanted, bytes_missed: their bytes.
    guessed: experts that were asked for because they might be wanted next. guessed_right: those that then were, and
    count as missed. bytes_wasted: bytes of others that had been read by then.
    """

    wanted: int = 0
    missed: int = 0
    bytes_wanted: int = 0
    bytes_missed: int = 0
    guessed: int = 0
    guessed_right: int = 0
    bytes_wasted: int = 0

    def since(self, before: "Counts") -> "Counts":
        """What was added to earlier counts."""
        return Counts(**{name: count - getattr(before, name) for name, count in vars(self).items()})

    @property
    def hit_rate(self) -> float | None:
        """The part of what was wanted that was in memory; None if nothing was wanted."""
        return 1 - self.missed / self.wanted if self.wanted else None

    @property
    def guess_rate(self) -> float | None:
        """The part of the guesses that were right; None if there were none."""
        return self.guessed_right / self.guessed if self.guessed else None


@dataclass(frozen=True)
class ExpertUsage:
    """Of one rank. kept: experts that stay in memory. all: how many there are. size: bytes of the largest."""

    kept: int
    all: int
    size: int
    counts: Counts

    def to_json(self) -> dict:
        hits = self.counts.hit_rate
        own = {"kept": self.kept, "all": self.all, "size": self.size}
        return own | vars(self.counts) | {"hit_rate": None if hits is None else round(hits, 4)}
