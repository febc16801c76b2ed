"""Waiting for messages without occupying a core.

MPI libraries wait in a busy loop, which takes a core from a fetch or a computation that may need it.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

# For this many seconds, messages are polled without sleeping; only the core is yielded to whatever is ready to run.
_SPIN = 0.5e-3
# After that, each sleep lasts _PART of the time waited so far, but at most _NAP seconds, unless the caller has longer.
_PART, _NAP = 1 / 64, 50e-6

_PR_SET_TIMERSLACK = 29


def wait(requests: Sequence, nap: float = _NAP) -> None:
    """Returns when all of the MPI requests are complete. nap: seconds that a sleep lasts at most."""
    began = time.perf_counter()
    for request in requests:
        while not request.Test():
            _pause(began, nap)


def take_turns(tasks: Iterable[Iterator[Callable[[], bool]]], comm) -> None:
    """Runs tasks side by side until all have ended. A task yields a question and resumes once the answer is yes."""
    questions = {task: lambda: True for task in tasks}
    began = time.perf_counter()
    while questions:
        ready = [task for task, question in questions.items() if question()]
        for task in ready:
            questions[task] = next(task, None)
            if questions[task] is None:
                del questions[task]
        if ready:
            began = time.perf_counter()
        else:
            comm.Iprobe()  # messages progress only inside MPI calls, and the questions may make none
            _pause(began)


def _pause(began: float, nap: float = _NAP) -> None:
    waited = time.perf_counter() - began
    if waited < _SPIN:
        os.sched_yield()
    else:
        time.sleep(min(nap, _PART * waited))


def sharpen_naps() -> None:
    """Makes sleeps of this thread, and of those it starts, precise: Linux adds up to 50 us by default."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)  # nanoseconds
