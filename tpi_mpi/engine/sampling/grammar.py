"""What may follow in a sequence that has a schema."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np


class Matcher(Protocol):
    """What is needed of llguidance's LLMatcher, which follows a schema token by token."""

    def compute_bitmask(self) -> bytes: ...
    def is_accepting(self) -> bool: ...
    def consume_token(self, token_id: int) -> bool: ...
    def consume_tokens(self, token_ids: list[int]) -> bool: ...
    def validate_tokens(self, token_ids: list[int]) -> int: ...
    def rollback(self, count: int) -> bool: ...


class Grammar:
    """What may follow in one sequence, by what it has said so far.

    The end of the text may follow wherever the schema is fulfilled.

    matcher: of a schema, at its beginning. vocab_size: of the model, which may know more tokens than its tokenizer.
    ends: the request's end-of-text tokens. others: tokens that the matcher takes for such.
    """

    def __init__(self, matcher: Matcher, vocab_size: int, ends: Iterable[int], others: Iterable[int]):
        self._matcher, self._vocab_size = matcher, vocab_size
        self._ends = [id for id in ends if id < vocab_size]
        self._no_text = [*self._ends, *(id for id in others if id < vocab_size)]
        self._allowed = self._next()

    @property
    def ended(self) -> bool:
        """Whether no text may follow: the schema is fulfilled, or no token leads on."""
        return self._allowed is None

    def restrict(self, logits: np.ndarray, drafted: Sequence[int] = ()) -> np.ndarray:
        """Logits (V,) without the tokens that may not follow; all of them where nothing may.

        drafted: tokens before it that may turn out to be none.
        """
        allowed = self._after(list(drafted)) if drafted else self._allowed
        return logits if allowed is None else np.where(allowed, logits, -np.inf)

    def see(self, token_id: int) -> None:
        """Takes note of a token of the sequence."""
        goes_on = token_id not in self._ends and self._matcher.consume_token(token_id)
        self._allowed = self._next() if goes_on else None

    def _after(self, drafted: list[int]) -> np.ndarray | None:
        """What may follow some drafted tokens; None if nothing may, or they may not."""
        if self._matcher.validate_tokens(drafted) < len(drafted):
            return None
        self._matcher.consume_tokens(drafted)
        allowed = self._next()
        self._matcher.rollback(len(drafted))
        return allowed

    def _next(self) -> np.ndarray | None:
        """Whether each token (V,) may be the next; None if no text may follow."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        allowed = np.unpackbits(packed, count=self._vocab_size, bitorder="little").view(bool)
        allowed[self._no_text] = False
        if not allowed.any():
            return None
        allowed[self._ends] = self._matcher.is_accepting()
        return allowed
