"""The cores of this host: which of them its ranks may use, and how they are shared out as threads."""

import os

from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError


class Cores:
    """What this rank and the others on its host may run on. Made by all ranks together.

    ranks: how many ranks this host has.
    own: the cores this rank may run on.
    """

    def __init__(self, world: World):
        from mpi4py import MPI

        self.own = _allowed(0)
        comm = world.comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.ranks: int = comm.Get_size()
        self._all = _union(comm, self.own)
        comm.Free()

    def threads(self, wanted: int | None = None) -> int:
        """Threads for this rank: as many as are wanted, or the host's cores shared among its ranks.

        Raises UserError where more are wanted than there are cores.
        """
        if wanted is None:
            return max(1, min(len(self.own), len(self._all) // self.ranks))
        if wanted > len(self.own):
            raise UserError(
                f"--threads {wanted} is more than the {len(self.own)} cores that a rank may use here; "
                f"give --threads {len(self.own)} or fewer{', or mpirun --bind-to none' if self.confined else ''}"
            )
        return wanted

    @property
    def confined(self) -> bool:
        """Whether mpirun gave this rank fewer cores than its share of those that mpirun itself may use.

        Open MPI does so by default where a job has one rank or two.
        """
        if "OMPI_COMM_WORLD_RANK" not in os.environ:
            return False
        return len(self.own) < len(_allowed(os.getppid())) // self.ranks


def _allowed(process: int) -> frozenset[int]:
    """The cores that a process may run on; 0 is this one."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(process))
    return frozenset(range(os.cpu_count() or 1))


def _union(comm, own: frozenset[int]) -> frozenset[int]:
    """The cores that any rank of the communicator may run on."""
    width = max(os.cpu_count() or 1, max(own) + 1)
    everyone = bytearray(width * comm.Get_size())
    comm.Allgather(bytes(cpu in own for cpu in range(width)), everyone)
    return frozenset(index % width for index, may in enumerate(everyone) if may)
