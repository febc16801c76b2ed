"""What speculation may lose before it must have won something."""

# The part of a run that may be lost, and the sweeps that may be lost at its beginning.
_PART, _BEGINNING = 0.015, 2.0
# Sweeps that can be won for later losses, at most: what was won in one text is no reason to lose in another.
_MOST = 4.0


class Credit:
    """Seconds that drafts may cost if all of them are wrong.

    What a sweep with drafts takes is compared with what its tokens would have taken without; the difference is won or
    lost. So a run becomes longer by a small part at most, whatever the drafts.
    """

    def __init__(self):
        self.seconds: float | None = None

    def note(self, spent: float, plain: float, sweep: float) -> None:
        """Takes note of what was spent on some tokens, and on the same without drafts.

        sweep: seconds that a sweep without drafts takes.
        """
        if self.seconds is None:
            self.seconds = _BEGINNING * sweep
        self.seconds = min(self.seconds + plain - spent + _PART * spent, max(_MOST * sweep, self.seconds))
