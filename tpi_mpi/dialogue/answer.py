"""One answer, as it comes."""

import time

from tpi_mpi.common.units import show_seconds
from tpi_mpi.dialogue.remote.events import Piece

# Seconds within which pieces come at once, so that the time between them tells nothing.
_AT_ONCE = 0.1


class Answer:
    """text: what has come so far. finish_reason: why it has ended, or None.

    The time is taken from the making of this object on.
    """

    def __init__(self):
        self.text = ""
        self.finish_reason: str | None = None
        self._tokens: int | None = None
        self._began = time.perf_counter()
        self._first = self._last = 0.0

    def take(self, piece: Piece) -> None:
        """Adds a piece that has just come."""
        if piece.text or piece.thought:
            self._last = time.perf_counter()
            self._first = self._first or self._last
        self.text += piece.text
        self.finish_reason = piece.finish_reason or self.finish_reason
        self._tokens = piece.tokens or self._tokens

    @property
    def cut(self) -> bool:
        """Whether it has ended because it had reached its limit."""
        return self.finish_reason == "length"

    def figures(self) -> str:
        """Tokens, tokens per second and the time to the first token, as far as they are known."""
        told = [] if self._tokens is None else [f"{self._tokens} {'token' if self._tokens == 1 else 'tokens'}"]
        if self._tokens and self._tokens > 1 and self._first:
            told.append(f"{self._rate(self._tokens):.1f} tokens/s")
        if self._first:
            told.append(f"the first after {show_seconds(self._first - self._began)}")
        if self.cut:
            told.append("ended at its limit")
        return ", ".join(told)

    def _rate(self, tokens: int) -> float:
        """Tokens per second: of those after the first, or of all since the question if they came at once."""
        if self._last - self._first > _AT_ONCE:
            return (tokens - 1) / (self._last - self._first)
        return tokens / (self._last - self._began)
