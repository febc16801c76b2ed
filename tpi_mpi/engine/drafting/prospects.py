"""Which drafts are worth their rows: those by which tokens come faster, as far as can be expected."""

from collections.abc import Mapping

from tpi_mpi.engine.drafting.credit import Credit
from tpi_mpi.engine.drafting.draft import Draft
from tpi_mpi.engine.drafting.sweep_times import SweepTimes
from tpi_mpi.engine.schedule.sequence import Sequence

# By so much the expected rate must be better for any more drafted tokens.
_BETTER = 1.005

Found = Mapping[Sequence, Draft]


class Prospects:
    """Knows what sweeps take, and what may be lost. Rates are in tokens per second, of all sequences together.

    times: of sweeps.
    """

    def __init__(self):
        self.times = SweepTimes()
        self._credit = Credit()

    @property
    def ready(self) -> bool:
        """Whether enough has been seen to tell what is worth anything."""
        return self._credit.seconds is not None

    @property
    def in_debt(self) -> bool:
        """Whether more has been lost than may be: nothing should be tried that takes time."""
        return self.ready and self._credit.seconds < 0

    def rate(self, tokens: float, rows: int, spent: float = 0.0) -> float:
        """Of a sweep of some rows, for which some seconds are spent on drafts."""
        return tokens / (spent + self.times.seconds(rows))

    def affordable(self, rows: int, sequences: int, spent: float = 0.0) -> bool:
        """Whether such a sweep may turn out to have drafted nothing that is right, for some sequences."""
        return spent + self.times.at_most(rows) - self.times.seconds(sequences) <= self._credit.seconds

    def worth(self, drafts: Found, sequences: int, most: int, spent: float = 0.0) -> tuple[Found, float]:
        """As much of some drafts as is worth its rows, and the rate that may then be expected.

        sequences: that get a token in any case. most: drafted tokens. spent: seconds, on drafts.
        """
        order = sorted(
            ((chance, place) for place, draft in enumerate(drafts.values()) for chance in draft.chances), reverse=True
        )
        count, best, tokens = 0, self.rate(sequences, sequences, spent), float(sequences)
        for index, (chance, _) in enumerate(order[:most], 1):
            tokens += chance
            if not self.affordable(sequences + index, sequences):
                break
            if (rate := self.rate(tokens, sequences + index, spent)) > _BETTER * best:
                count, best = index, rate
        places = [place for _, place in order[:count]]
        lengths = enumerate(drafts.items())
        return {own: draft.first(places.count(place)) for place, (own, draft) in lengths if place in places}, best

    def swept(
        self,
        rows: int,
        prompt_rows: int,
        seconds: float,
        computing: float,
        drafting: float,
        sequences: int,
        tokens: int,
    ) -> None:
        """Takes note of a sweep in which some sequences got so many tokens.

        Without drafts it would have been as much shorter as its additional rows cost, and given one token to each.
        prompt_rows: those of the rows that were of prompts. drafting: seconds that were spent on drafts before it.
        """
        if not prompt_rows:
            self.times.note(rows, seconds, computing)
        if not self.times.known:
            return
        plain = self.times.seconds(sequences)
        shorter = seconds - self.times.seconds(rows - prompt_rows) + plain if prompt_rows else plain
        drafted = rows - prompt_rows > sequences
        self._credit.note(seconds + drafting, shorter * tokens / sequences if drafted else seconds, plain)
