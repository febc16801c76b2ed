"""Examines all machines at once, before a model is run on them: what they have, how fast they are, what is wrong.

    mpirun -np 4 --hostfile hosts python -m tpi_mpi.check SLABS --report check.json

SLABS may also be a checkpoint that is not split yet, which only rank 0 needs to have; weights_tools.split then cuts
slabs to suit these machines with --ratios-from check.json. Standard error carries a table and a sentence for whatever
is wrong, standard output one JSON object. Exit status 0 if nothing is wrong, 1 if something is.
Cost: about fifteen seconds and, on a machine without a slab, 256 MiB of disk for a moment.
"""

import sys
from collections.abc import Sequence

from tpi_mpi.cli.arguments import check_parser, parse_check
from tpi_mpi.cli.program import run_ranks
from tpi_mpi.comm.world import World
from tpi_mpi.common.options.programs import CheckOptions


def main(arguments: Sequence[str] | None = None) -> int:
    return run_ranks(arguments, check_parser, parse_check, _check)


def _check(world: World, options: CheckOptions, began: float) -> None:
    from tpi_mpi.preflight.target import agree

    target = agree(world, options)
    from tpi_mpi.preflight.run import check  # and with it what mistakes need not wait for

    check(world, target, options)


if __name__ == "__main__":
    sys.exit(main())
