"""Server-sent events, and the pieces of answers in them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tpi_mpi.common.errors import TpiError
from tpi_mpi.common.json_object import shorten
from tpi_mpi.dialogue.characters import printable

_END = "[DONE]"


@dataclass(frozen=True)
class Piece:
    """What one event adds to an answer.

    text: of the answer. thought: of what the model thinks before it answers. finish_reason: why the answer has ended,
    or None. tokens: of the whole answer, or None where that is not told yet.
    """

    text: str = ""
    thought: str = ""
    finish_reason: str | None = None
    tokens: int | None = None


def payloads(lines: Iterable[bytes]) -> Iterator[str]:
    """The data of each event. Lines with anything else, such as comments, are left out."""
    data: list[str] = []
    for line in lines:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text.startswith("data:"):
            data.append(text.removeprefix("data:").removeprefix(" "))
        elif not text and data:
            yield "\n".join(data)
            data = []


def pieces(lines: Iterable[bytes]) -> Iterator[Piece]:
    """The pieces of an answer. Raises TpiError if the server says that it failed, or stops in the middle."""
    for payload in payloads(lines):
        if payload == _END:
            return
        yield _piece(payload)
    raise TpiError("the server stopped in the middle of the answer")


def _piece(payload: str) -> Piece:
    try:
        event = json.loads(payload)
        if event.get("error"):
            raise TpiError(f"the server could not go on: {printable(str(event['error']['message']))}")
        choice = (event.get("choices") or [{}])[0]
        delta, usage = choice.get("delta") or {}, event.get("usage") or {}
        text, thought = (printable(delta.get(key) or "") for key in ("content", "reasoning_content"))
        tokens = usage.get("completion_tokens")
        return Piece(text, thought, choice.get("finish_reason"), None if tokens is None else int(tokens))
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise TpiError(f"the server sent {shorten(payload)}, which is no piece of an answer") from None
