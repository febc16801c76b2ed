"""The cores of this host: which of them its ranks may use, how they are divided among the ranks as threads, and which
rank may have them to itself."""

import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError


class Cores:
    """The cores that this rank and the other ranks on its host may run on. Creating it is collective over all ranks.

    ranks: number of ranks on this host.
    own: ids of the cores this rank may run on.
    first: whether this rank is the first one on its host.
    """

    def __init__(self, world: World):
        from mpi4py import MPI

        self.own = _allowed(0)
        comm = world.comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.ranks: int = comm.Get_size()
        self.first: bool = comm.Get_rank() == 0
        self._world = world
        self._all = _union(comm, self.own)
        comm.Free()

    def threads(self, wanted: int | None = None) -> int:
        """The number of threads for this rank: ``wanted``, or by default an equal share of the host's cores.

        Raises UserError if ``wanted`` exceeds the number of cores this rank may run on.
        """
        if wanted is None:
            return max(1, min(len(self.own), len(self._all) // self.ranks))
        if wanted > len(self.own):
            raise UserError(
                f"--threads {wanted} is more than the {len(self.own)} cores that a rank may use here; "
                f"give --threads {len(self.own)} or fewer{', or mpirun --bind-to none' if self.confined else ''}"
            )
        return wanted

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """The first rank of each host goes through the with-block ahead of the others, which wait. Collective."""
        if not self.first:
            self._world.barrier()
        yield
        if self.first:
            self._world.barrier()

    @property
    def confined(self) -> bool:
        """Whether mpirun bound this rank to fewer cores than its share of those that mpirun itself may use.

        Open MPI does so by default when a job has one or two ranks.
        """
        if "OMPI_COMM_WORLD_RANK" not in os.environ:
            return False
        return len(self.own) < len(_allowed(os.getppid())) // self.ranks


def _allowed(process: int) -> frozenset[int]:
    """The cores that a process may run on; 0 stands for this process."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(process))
    return frozenset(range(os.cpu_count() or 1))


def _union(comm, own: frozenset[int]) -> frozenset[int]:
    """The cores that any rank of the communicator may run on."""
    widths = array("q", bytes(8 * comm.Get_size()))
    comm.Allgather(array("q", [max(own) + 1]), widths)
    width = max(widths)  # not what this rank sees: cores may be numbered with gaps
    everyone = bytearray(width * comm.Get_size())
    comm.Allgather(bytes(cpu in own for cpu in range(width)), everyone)
    return frozenset(index % width for index, may in enumerate(everyone) if may)
