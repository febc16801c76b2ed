"""Answers that are nothing but text."""

from collections.abc import Sequence

from tpi_mpi.serving.dialects.parts import Content, Part
from tpi_mpi.serving.dialects.reader import Reader


class Plain(Reader):
    """Passes on text as it comes, whatever tools there are."""

    def __init__(self, tools: Sequence[str] = ()):
        super().__init__(self._content)

    def _content(self, last: bool) -> list[Part] | None:
        return self._take(Content, len(self._text)) or None
