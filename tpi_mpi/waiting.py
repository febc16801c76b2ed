"""Waiting for messages without taking the processor from those who have something to do.

MPI libraries wait by asking over and over, which keeps a core busy that a fetch or a computation may need.
"""

import ctypes
import os
import sys
import time
from collections.abc import Sequence

# A message on its way usually arrives within this many seconds; it is asked for without a pause.
_SPIN = 0.5e-3
# After that, between two questions.
_NAP = 50e-6

_PR_SET_TIMERSLACK = 29


def wait(requests: Sequence) -> None:
    """Returns when all of these MPI requests are complete."""
    patience = time.perf_counter() + _SPIN
    for request in requests:
        while not request.Test():
            if time.perf_counter() < patience:
                os.sched_yield()
            else:
                time.sleep(_NAP)


def sharpen_naps() -> None:
    """Lets this thread, and those it starts, sleep as short as they ask for: Linux adds 50 us by default."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)  # nanoseconds
