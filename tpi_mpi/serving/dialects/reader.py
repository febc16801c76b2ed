"""An answer that comes as pieces of text, read into parts."""

from collections.abc import Callable

from tpi_mpi.serving.dialects.parts import Content, Part, Reasoning
from tpi_mpi.tokenizer.detokenizer import overlap


class Reader:
    """Reads one answer. However the text is cut into pieces, the parts join to the same.

    Each reader is in a state: a method that takes what it can from the beginning of the text and returns the parts of
    that, or None if more text has to come first. It is told whether none will.

    state: the first one.
    """

    State = Callable[[bool], list[Part] | None]

    def __init__(self, state: State):
        self._state = state
        self._text = ""  # that is not read yet

    def push(self, piece: str) -> list[Part]:
        """The parts that are certain with this piece; what may be the beginning of a mark is held back."""
        self._text += piece
        return self._read(False)

    def finish(self) -> list[Part]:
        """What is left once the text has ended."""
        return self._read(True)

    def _read(self, last: bool) -> list[Part]:
        parts: list[Part] = []
        while (more := self._state(last)) is not None:
            parts += more
        return parts

    def _take(self, kind: type[Content] | type[Reasoning], count: int) -> list[Part]:
        """So many characters of the text, as a part of a kind if there are any."""
        taken, self._text = self._text[:count], self._text[count:]
        return [kind(taken)] if taken else []

    def _take_until(self, mark: str, then: State, last: bool) -> list[Part] | None:
        """A state: content up to a mark and to the white space before it; the next state begins with that."""
        start = self._text.find(mark)
        if start >= 0:
            self._state = then
            return self._take(Content, len(self._text[:start].rstrip()))
        return self._take(Content, len(self._text) if last else clear(self._text, mark)) or None

    def _after_space(self, then: State) -> State:
        """A state that drops white space before the next one."""

        def skip(last: bool) -> list[Part] | None:
            self._text = self._text.lstrip()
            if not self._text and not last:
                return None
            self._state = then
            return []

        return skip


def clear(text: str, mark: str) -> int:
    """How many characters of a text are no part of a mark that may begin in it, nor of the white space before that."""
    return len(text[: len(text) - overlap(text, mark)].rstrip())
