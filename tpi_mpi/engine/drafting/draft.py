"""A draft: tokens that may follow a sequence, and how likely they do."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Draft:
    """kind: of what drafted it.

    chances: for each token, that it and all before it are right. signs: for each, what is to be learned from it.
    """

    kind: str
    token_ids: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    signs: list[Sequence[Hashable]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def chance(self) -> float:
        """That all of it is right."""
        return self.chances[-1] if self.chances else 1.0

    @property
    def gain(self) -> float:
        """Tokens of it that are expected to be right."""
        return sum(self.chances)

    def add(self, token_id: int, chance: float, signs: Sequence[Hashable]) -> None:
        """Adds a token, which is right with some chance if those before it are."""
        self.chances.append(self.chance * chance)
        self.token_ids.append(token_id)
        self.signs.append(signs)

    def first(self, count: int) -> "Draft":
        """Only the first so many tokens of it."""
        return Draft(self.kind, self.token_ids[:count], self.chances[:count], self.signs[:count])

    def right(self, token_ids: Sequence[int]) -> int:
        """How many of its first tokens are these."""
        pairs = enumerate(zip(self.token_ids, token_ids, strict=False))
        return next((place for place, (own, other) in pairs if own != other), min(len(self), len(token_ids)))
