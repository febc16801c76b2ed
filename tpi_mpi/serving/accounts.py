"""What the engine tells of itself, for people and for monitoring."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tpi_mpi.common.trace import ACTIVITIES
from tpi_mpi.serving import messages

_TOTALS = ("requests", "tokens", "cached_tokens", "sweeps", "drafted", "accepted")


@dataclass(frozen=True)
class _Account:
    """What the ranks of an engine had done by some moment."""

    moment: float = field(default_factory=time.monotonic)
    ranks: Sequence[Mapping] = ()
    throughput: Mapping[str, float] = field(default_factory=dict)

    def done(self, key: str) -> float:
        return self.throughput.get(key) or 0

    def of_rank(self, rank: int, key: str) -> float:
        return self.ranks[rank][key] if self.ranks else 0


class Accounts:
    """The last accounts of an engine's ranks, and what they did in the time between.

    ready: what the engine said when it became ready; None if none ever did.
    """

    def __init__(self):
        self.ready: Mapping | None = None
        self._earlier = dict.fromkeys(_TOTALS, 0)  # what engines did that have ended
        self._begin()

    def _begin(self) -> None:
        self._last = _Account()
        self._busy = self._last, self._last  # the last two with a sweep between them
        self._progress: Mapping | None = None
        self._told = 0.0

    def end(self) -> None:
        """Forgets an engine that has ended, except for what it has done."""
        self._earlier = self.totals()
        self._begin()

    def take(self, message: Mapping) -> None:
        """Takes note of what the engine says."""
        match message["kind"]:
            case messages.READY:
                self.ready = message
            case messages.PROGRESS:
                self._progress, self._told = message, time.monotonic()
            case messages.TOKENS:
                self._progress = None
            case messages.RANKS:  # between two sweeps
                self._progress = None
                self._note(_Account(ranks=message["ranks"], throughput=message["throughput"]))

    def _note(self, account: _Account) -> None:
        if account.done("sweeps") > self._last.done("sweeps"):
            self._busy = self._last, account
        self._last = account

    def totals(self) -> dict[str, int]:
        """What all engines have done so far, by the last account."""
        return {key: self._earlier[key] + int(self._last.done(key)) for key in _TOTALS}

    def sweep(self) -> dict | None:
        """How far the sweep is that is under way, if it takes long."""
        if not self._progress:
            return None
        own = {key: self._progress[key] for key in ("seconds", "blocks", "done", "bytes", "left_s")}
        passed = time.monotonic() - self._told
        left = own["left_s"] and max(0.0, own["left_s"] - passed)
        return {**own, "seconds": own["seconds"] + passed, "left_s": left}

    def rates(self) -> dict[str, float | None]:
        """What the engine does in a second; how long its last sweeps took, and how many tokens came of each."""
        before, after = self._busy
        new = {key: after.done(key) - before.done(key) for key in ("sweeps", "tokens", "prompt_rows", "generate_s")}
        passed = after.moment - before.moment if after is self._last else 0.0  # it has nothing to do any more
        return {
            "tokens_per_s": _rate(new["tokens"], passed) or 0.0,
            "sweeps_per_s": _rate(new["sweeps"], passed) or 0.0,
            "prompt_rows_per_s": _rate(new["prompt_rows"], passed) or 0.0,
            "sweep_s": _rate(new["generate_s"], new["sweeps"]),
            "tokens_per_sweep": _rate(new["tokens"], new["sweeps"]),
        }

    def ranks(self) -> list[dict]:
        """What each rank has, and where its time went in the last sweeps."""
        return [self._rank(rank) for rank in range(len(self._last.ranks))]

    def _rank(self, rank: int) -> dict:
        own = {key: value for key, value in self._last.ranks[rank].items() if key not in (*ACTIVITIES, "bytes_fetched")}
        before, after = self._busy
        seconds = after.done("generate_s") - before.done("generate_s")
        new = {key: after.of_rank(rank, key) - before.of_rank(rank, key) for key in (*ACTIVITIES, "bytes_fetched")}
        shares = {key: _rate(new[key], seconds) or 0.0 for key in ACTIVITIES}
        return own | {"disk_bytes_per_s": _rate(new["bytes_fetched"], seconds) or 0.0, "shares": shares}


def _rate(count: float, whole: float) -> float | None:
    return count / whole if whole > 0 else None
