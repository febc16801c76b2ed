"""How far a slow sweep has come: one line kept current on a terminal, or a line now and then in a log."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tpi_mpi.common.errors import say
from tpi_mpi.common.terminal import StatusLine, terminal_width
from tpi_mpi.common.units import format_size

# Seconds after which a sweep is slow enough to be worth a line.
_PATIENCE = 1.5
# Seconds from one line to the next, on a terminal and in a log.
_MOVING, _LOGGED = 0.2, 30.0


class SweepProgress:
    """Follows one sweep after another.

    blocks: the bytes of each block of a sweep, by name.
    fetched: returns the bytes fetched so far.
    shown: False where something else tells the progress of the run.
    """

    def __init__(self, blocks: Mapping[str, int], fetched: Callable[[], int], shown: bool = True):
        self._blocks = blocks
        self._fetched = fetched
        width = terminal_width()
        self._line = StatusLine(width) if width else None
        self._patience = _PATIENCE if shown else float("inf")
        self._shown = time.monotonic()

    @contextmanager
    def sweep(self) -> Iterator[None]:
        """Follows the sweep that takes place inside the with-block."""
        self._began = time.monotonic()
        self._done: dict[str, int] = {}
        self._before = self._fetched()
        try:
            yield
        finally:
            if self._line:
                self._line.clear()

    def block(self, name: str) -> None:
        """Notes that a block was computed, and shows the line if it is time to."""
        self._done[name] = self._blocks[name]
        now = time.monotonic()
        if now - self._began > self._patience and now - self._shown > (_MOVING if self._line else _LOGGED):
            self._shown = now
            (self._line.show if self._line else say)(self._text(now - self._began))

    def _text(self, elapsed: float) -> str:
        fetched = self._fetched() - self._before
        done, total = sum(self._done.values()), sum(self._blocks.values())
        blocks = f"{len(self._done)} of {len(self._blocks)} blocks"
        read = f"{format_size(fetched)} read at {format_size(round(fetched / elapsed))}/s"
        return f"{blocks}, {read}, {elapsed * (total - done) / done:.0f} s left for this token"
