"""Runs weights_tools.scatter with something going wrong on one rank: python sabotage_scatter.py KIND RANK AFTER ARGS...

AFTER: how many chunks go well before that.
"""

import errno
import os
import shutil
import signal
import sys
import time
from types import SimpleNamespace

from tpi_mpi.comm.world import launched_rank
from weights_tools import scatter
from weights_tools.common import direct_file
from weights_tools.transfer import scattering
from weights_tools.transfer.received_file import ReceivedFile
from weights_tools.transfer.stream import SourceFile


def after(calls: int, function, trouble):
    """The function, with trouble ahead of every call after the first ``calls``."""
    count = 0

    def spoilt(*arguments):
        nonlocal count
        count += 1
        if count > calls:
            trouble(*arguments)
        return function(*arguments)

    return spoilt


def kill(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(*_) -> None:
    time.sleep(3600)


def full(*_) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def alter_a_message(calls: int) -> None:
    """The bytes change once their checksum has been taken."""
    read, count = SourceFile.read, 0

    def altered(self, chunk, buffer):
        nonlocal count
        read(self, chunk, buffer)
        count += 1
        if count > calls:
            buffer[0] ^= 1

    SourceFile.read = altered


def sabotage(kind: str, calls: int) -> None:
    if kind == "kill":
        ReceivedFile.take = after(calls, ReceivedFile.take, kill)
    elif kind == "hang-reading":
        SourceFile.read = after(calls, SourceFile.read, hang)
    elif kind == "hang-writing":
        ReceivedFile.take = after(calls, ReceivedFile.take, hang)
    elif kind == "hang-placing":
        ReceivedFile.place = after(calls, ReceivedFile.place, hang)
    elif kind == "full":
        direct_file.os.pwrite = after(calls, os.pwrite, full)
    elif kind == "small":
        scattering.shutil = SimpleNamespace(disk_usage=lambda path: shutil.disk_usage(path)._replace(free=10**6))
    elif kind == "slow":
        ReceivedFile.take = after(calls, ReceivedFile.take, lambda *_: time.sleep(0.1))
    else:
        alter_a_message(calls)


if __name__ == "__main__":
    kind, rank, calls, *arguments = sys.argv[1:]
    if launched_rank() == int(rank):
        sabotage(kind, int(calls))
    sys.exit(scatter.main(arguments))
