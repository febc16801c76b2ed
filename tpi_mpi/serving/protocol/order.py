"""A request, settled: sequences to continue, and how to write their answers."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tpi_mpi.serving.protocol.choice import Choice, Delta


class Style(Protocol):
    """How answers of one kind are written. One of it writes the answers to one request."""

    prefix: str
    """That an answer's id begins with."""
    whole_object: str
    chunk_object: str

    def opening(self, choice: Choice) -> dict | None:
        """What a stream says of a choice before anything has come of it."""

    def chunk(self, choice: Choice, delta: Delta) -> list[dict]:
        """What a stream says of a choice: entries for the ``choices`` of as many events."""

    def whole(self, choice: Choice, delta: Delta) -> dict:
        """A choice that has ended, all at once. delta: everything that has come of it."""


@dataclass(frozen=True)
class Order:
    """style: how the answers are written. stream: whether as they come. include_usage: whether a stream counts tokens.

    created: seconds since 1970. key: what tells the answer from all others.
    """

    style: Style
    model: str
    choices: Sequence[Choice]
    stream: bool
    include_usage: bool
    created: int = field(default_factory=lambda: int(time.time()))
    key: str = field(default_factory=lambda: secrets.token_hex(12))

    def whole(self, deltas: Sequence[Delta]) -> dict:
        """The answer, all at once."""
        pairs = zip(self.choices, deltas, strict=True)
        return self._frame(self.style.whole_object, [self.style.whole(*pair) for pair in pairs]) | {
            "usage": self.usage()
        }

    def opening(self) -> list[dict]:
        """The first events of a stream."""
        return [self._event(entry) for choice in self.choices if (entry := self.style.opening(choice))]

    def chunks(self, choice: Choice, delta: Delta) -> list[dict]:
        """Events of a stream, for what has come of a choice."""
        return [self._event(entry) for entry in self.style.chunk(choice, delta)]

    def closing(self) -> list[dict]:
        """The last events of a stream."""
        if not self.include_usage:
            return []
        return [self._frame(self.style.chunk_object, []) | {"usage": self.usage()}]

    def usage(self) -> dict:
        """How many tokens there were: those of a prompt with several answers count once."""
        firsts = {choice.prompt: choice for choice in reversed(self.choices)}.values()
        prompt = sum(len(choice.request.token_ids) for choice in firsts)
        completion = sum(len(choice.completion.tokens) for choice in self.choices)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(choice.cached_tokens for choice in firsts)},
        }

    def _event(self, entry: dict) -> dict:
        frame = self._frame(self.style.chunk_object, [entry])
        return frame | {"usage": None} if self.include_usage else frame

    def _frame(self, kind: str, choices: list[dict]) -> dict:
        own = {"id": f"{self.style.prefix}-{self.key}", "object": kind, "created": self.created, "model": self.model}
        return own | {"choices": choices}
