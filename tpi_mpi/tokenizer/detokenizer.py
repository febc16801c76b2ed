"""Text as its tokens arrive: whole characters only, up to a stop string."""

from collections.abc import Callable, Sequence

# The bytes of one character may be spread over several tokens; decoding only some of them gives this character.
_INCOMPLETE = "\ufffd"


class Detokenizer:
    """Turns token ids into text as they arrive, whole characters only.

    Each piece is decoded together with a few preceding ids, because a token's text can depend on what comes before:
    many tokenizers drop the space before the first word.
    """

    _CONTEXT = 6

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt_ids: Sequence[int]):
        self._decode = decode
        self._ids = list(prompt_ids[-self._CONTEXT :])
        self._first, self._shown = 0, len(self._ids)

    def push(self, token_id: int) -> str:
        """The text that this id completes; empty as long as a character is incomplete."""
        self._ids.append(token_id)
        text = self._pending()
        if not text or text.endswith(_INCOMPLETE):
            return ""
        self._first, self._shown = self._shown, len(self._ids)
        return text

    def finish(self) -> str:
        """The complete characters that :meth:`push` still held back."""
        return self._pending().rstrip(_INCOMPLETE)

    def _pending(self) -> str:
        before = self._decode(self._ids[self._first : self._shown])
        return self._decode(self._ids[self._first :])[len(before) :]


class StopStrings:
    """Cuts streamed text where the first stop string would begin.

    found: whether a stop string was met; the text has then ended.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that can be shown now; what may be the beginning of a stop string is held back."""
        self._held += piece
        starts = [start for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            return self._take(min(starts))
        held = max((overlap(self._held, stop) for stop in self._stops), default=0)
        return self._take(len(self._held) - held)

    def finish(self) -> str:
        """The text still held back, once the sequence has ended; empty after a stop string."""
        return "" if self.found else self._take(len(self._held))

    def _take(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown


def overlap(text: str, mark: str) -> int:
    """The length of the longest suffix of a text that a mark begins with, without being all of the mark."""
    longest = min(len(mark) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if text.endswith(mark[:length])), 0)
