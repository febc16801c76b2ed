"""How long a disk may give nothing before it counts as hung."""

import time

from tpi_mpi.common.errors import DiskHung

# Between two looks, in parts of the time that is allowed.
_PART, _LONGEST = 1 / 8, 1.0


class Patience:
    """Watches something that a disk does bit by bit, from another thread than the one that waits for the disk.

    seconds: in which something has to move. what: what is not coming, for the message.
    interval: seconds between two calls of :meth:`check`.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.interval = min(_LONGEST, _PART * seconds)
        self._moved = time.monotonic()

    def moved(self) -> None:
        """The disk gave something, or is only now asked for something."""
        self._moved = time.monotonic()

    def check(self, what: str) -> None:
        """Raises DiskHung, which says of ``what`` nothing has come, where nothing moved for too long."""
        if time.monotonic() - self._moved > self.seconds:
            raise DiskHung(
                f"nothing of {what} has come from the disk for {self.seconds:.0f} s; see whether the disk still "
                "works, or give a slow one more time with --timeout"
            )
