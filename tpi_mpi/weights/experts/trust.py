"""Whether guesses are worth what reading them costs."""

# The part of the last guesses that must have been right; how many of them count; and of how many occasions one is taken
# all the same, to see whether guesses have become better.
_LEAST, _SPAN, _RETRY = 0.6, 200, 64


class Trust:
    """Judges by how many of the last guesses were right. rate: their part."""

    def __init__(self):
        self.rate = 1.0
        self._refused = 0

    def note(self, right: int, guessed: int) -> None:
        """What came of some guesses."""
        self.rate += min(1.0, guessed / _SPAN) * (right / guessed - self.rate)

    def given(self) -> bool:
        """Whether to guess on this occasion."""
        if self.rate >= _LEAST:
            return True
        self._refused = (self._refused + 1) % _RETRY
        return self._refused == 0
