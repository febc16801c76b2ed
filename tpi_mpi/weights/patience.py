"""How long a disk may deliver nothing before it counts as hung."""

import time

from tpi_mpi.common.errors import DiskHung

# The time between checks: this part of the time that is allowed, but at most this many seconds.
_PART, _LONGEST = 1 / 8, 1.0


class Patience:
    """Watches the progress of a disk from a thread other than the one that waits for it.

    A process that was stopped, or whose machine slept, does not hold that against its disk.

    seconds: the time within which there must be some progress.
    interval: seconds to wait between calls of :meth:`check`.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.interval = min(_LONGEST, _PART * seconds)
        self._moved = self._checked = time.monotonic()

    def moved(self) -> None:
        """Notes that the disk has delivered something, or has only now been asked for something."""
        self._moved = time.monotonic()

    def check(self, what: str) -> None:
        """Raises DiskHung if there was no progress for too long. what: what is being waited for, for the message."""
        now = time.monotonic()
        asleep = now - max(self._checked, self._moved) > self.seconds / 2
        self._checked = now
        if asleep:
            self._moved = now
        if now - self._moved > self.seconds:
            raise DiskHung(
                f"no data of {what} has moved to or from the disk for {self.seconds:.0f} s; check that it still works, "
                "or give a slow disk more time with --timeout"
            )
