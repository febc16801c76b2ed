"""Sends each rank's slab from rank 0's disk to the disk of the machine that the rank runs on.

    mpirun -np 4 --hostfile hosts python -m weights_tools.scatter SLABS TARGET

SLABS is read by rank 0 alone. TARGET is a directory on every machine; several may share one, and it may be SLABS
itself. Interrupted, the scatter resumes when it is started again. The slabs of a draft, SLABS/draft, go the same way.

A slab that is in place is not sent again. It is recognised by its header, which has the checksum of every block; a
file that was damaged later still has that header. A run would find the damage when it first fetches the block;
--verify finds it now, and sends that slab again. Cost: each byte crosses the network once, at the rate of rank 0's
link; each machine reads what an interrupted scatter left on it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tpi_mpi.cli.groups import add_timeout
from tpi_mpi.cli.parser import Parser
from tpi_mpi.cli.program import run_ranks
from tpi_mpi.comm.world import World
from tpi_mpi.common.options.programs import ScatterOptions


def scatter_parser() -> Parser:
    parser = Parser(
        prog="python -m weights_tools.scatter",
        usage="mpirun -np N %(prog)s SLABS TARGET [options]",
        description="Sends each rank's slab to the disk of the machine that the rank runs on.",
    )
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory on rank 0's machine, written by weights_tools.split")
    add("target", metavar="TARGET", type=Path, help="directory on every machine; new, empty, or with slabs")
    add_timeout(parser)
    add("--verify", action="store_true", help="read slabs that are already in place, and send damaged ones again")
    return parser


def parse_scatter(arguments: Sequence[str]) -> ScatterOptions:
    return ScatterOptions(**vars(scatter_parser().parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_ranks(arguments, scatter_parser, parse_scatter, _scatter)


def _scatter(world: World, options: ScatterOptions, began: float) -> None:
    from weights_tools.transfer.scattering import scatter  # imports h5py, which mistakes need not wait for

    scatter(world, options)


if __name__ == "__main__":
    sys.exit(main())
