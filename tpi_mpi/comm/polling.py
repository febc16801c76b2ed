"""Waiting for messages without taking the processor from those who have something to do.

MPI libraries wait by asking over and over, which keeps a core busy that a fetch or a computation may need.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

# So many seconds a message is asked for without a pause, except for others that have something to do.
_SPIN = 0.5e-3
# After that, the pause between two questions is this part of what was waited already, and at most so many seconds.
_PART, _NAP = 1 / 64, 50e-6

_PR_SET_TIMERSLACK = 29


def wait(requests: Sequence) -> None:
    """Returns when all of these MPI requests are complete."""
    began = time.perf_counter()
    for request in requests:
        while not request.Test():
            _pause(began)


def take_turns(tasks: Iterable[Iterator[Callable[[], bool]]], comm) -> None:
    """Returns when all tasks are through. A task yields questions, and goes on when the answer to one is yes."""
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
            comm.Iprobe()  # messages move only while MPI is asked something, which the questions may not do
            _pause(began)


def _pause(began: float) -> None:
    waited = time.perf_counter() - began
    if waited < _SPIN:
        os.sched_yield()
    else:
        time.sleep(min(_NAP, _PART * waited))


def sharpen_naps() -> None:
    """Lets this thread, and those it starts, sleep as short as they ask for: Linux adds 50 us by default."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)  # nanoseconds
