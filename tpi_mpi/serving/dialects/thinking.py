"""Reasoning before an answer, between <think> and </think>."""

from tpi_mpi.serving.dialects.parts import Part, Reasoning
from tpi_mpi.serving.dialects.reader import Reader, clear

_OPEN, _CLOSE = "<think>", "</think>"


def opens_reasoning(rendered_prompt: str) -> bool:
    """Whether a prompt ends with the beginning of the model's reasoning."""
    return rendered_prompt.rstrip().endswith(_OPEN)


class Thinking(Reader):
    """Reads reasoning, if an answer begins with it; another reader reads the rest.

    opened: whether the prompt has begun the reasoning already.
    """

    def __init__(self, answer: Reader, opened: bool):
        super().__init__(self._beginning)
        self._answer, self._opened = answer, opened

    def finish(self) -> list[Part]:
        return super().finish() + self._answer.finish()

    def _beginning(self, last: bool) -> list[Part] | None:
        start = self._text.lstrip()
        if start != _OPEN and _OPEN.startswith(start) and not last:
            return None
        if start.startswith(_OPEN):
            self._text, self._opened = start[len(_OPEN) :], True
        self._state = self._after_space(self._reasoning) if self._opened else self._rest
        return []

    def _reasoning(self, last: bool) -> list[Part] | None:
        end = self._text.find(_CLOSE)
        if end < 0:
            return self._take(Reasoning, len(self._text.rstrip()) if last else clear(self._text, _CLOSE)) or None
        parts = self._take(Reasoning, len(self._text[:end].rstrip()))
        self._text = self._text.lstrip()[len(_CLOSE) :]
        self._state = self._after_space(self._rest)
        return parts

    def _rest(self, last: bool) -> list[Part] | None:
        text, self._text = self._text, ""
        return self._answer.push(text) if text else None
