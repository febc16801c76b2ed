"""Runs tpi_mpi.check on machines that differ, each rank one of its own: python unlike.py FAULTS ARGUMENTS...

FAULTS: comma-separated KIND:RANK, of the functions below. Ranks are on hosts of different names where there are
any faults, and what is measured is measured only shortly.
"""

import sys
import time

from tpi_mpi import check
from tpi_mpi.comm import links, world
from tpi_mpi.comm.world import launched_rank
from tpi_mpi.measurement import disk_probe, probes


def version():
    """An older numpy."""
    from tpi_mpi.preflight import versions

    installed = versions._installed
    versions._installed = lambda package: "1.26.4" if package == "numpy" else installed(package)


def memory():
    """A machine with 300 MiB."""
    from tpi_mpi.common import memory

    memory.available, memory.resident = lambda: 0, lambda: 300 * 1024**2


def late():
    """Everything that is waited for in the links' probe comes much later than on a busy machine."""
    wait = links.wait

    def waited(requests):
        time.sleep(0.1)
        wait(requests)

    links.wait = waited


def disk():
    """A disk that is a hundred times slower."""
    read_at(1e7)


def read_at(rate):
    """The disk is really read, but what a busy machine gives for a moment is not what is compared."""
    read = disk_probe._read
    disk_probe._read = lambda *where: rate if read(*where) else 0.0


def main() -> int:
    faults, *arguments = sys.argv[1:]
    disk_probe._SECONDS = probes._SECONDS = probes._SECONDS_TOGETHER = 0.05
    if faults != "none":
        world.socket.gethostname = lambda: f"host{launched_rank()}"
        read_at(1e9)
        for fault in faults.split(","):
            kind, rank = fault.split(":")
            if launched_rank() == int(rank):
                globals()[kind]()
    return check.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
