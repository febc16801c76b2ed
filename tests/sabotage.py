"""Runs tpi_mpi.generate with something going wrong on one rank: python sabotage.py KIND RANK ARGUMENTS..."""

import errno
import os
import signal
import sys
import time

from tpi_mpi import generate
from tpi_mpi.comm.world import launched_rank
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.weights import pages
from tpi_mpi.weights.experts.reader import Reader


def out_of_memory():
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


def bug():
    raise KeyError("no such thing")


def disk():
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def freeze():
    os.kill(os.getpid(), signal.SIGSTOP)


def after(calls: int, function, trouble):
    """The function, with trouble from the given call on."""
    count = 0

    def spoilt(*arguments, **settings):
        nonlocal count
        count += 1
        if count > calls:
            trouble()
        return function(*arguments, **settings)

    return spoilt


def sabotage(kind: str) -> None:
    if kind == "disk":
        healthy, began = pages.populate, time.monotonic()
        late = lambda: time.monotonic() - began > 3  # noqa: E731
        pages.populate = lambda *where: errno.EIO if late() else healthy(*where)
    elif kind == "hang-early":  # while libraries are imported
        pages.populate = lambda *where: time.sleep(3600)
    elif kind == "hang":
        healthy, began = pages.populate, time.monotonic()
        pages.populate = lambda *where: time.sleep(3600) if time.monotonic() - began > 3 else healthy(*where)
    elif kind.startswith("miss-"):  # while a missing expert is read
        trouble = {"miss-kill": kill_self, "miss-disk": disk, "miss-hang": lambda: time.sleep(3600)}[kind]
        Reader._some = after(30, Reader._some, trouble)
    else:
        trouble = {"memory": out_of_memory, "bug": bug, "kill": kill_self, "freeze": freeze}[kind]
        ModelShard.feed_forward = after(60, ModelShard.feed_forward, trouble)


if __name__ == "__main__":
    kind, rank, *arguments = sys.argv[1:]
    if launched_rank() == int(rank):
        sabotage(kind)
    sys.exit(generate.main(arguments))
