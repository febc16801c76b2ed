"""Looks at all machines at once: what they have, how fast they are, and what is wrong, before a model is run on them.

    mpirun -np 4 --hostfile hosts python -m tpi_mpi.check SLABS --report check.json

SLABS may also be a checkpoint that is not split yet, which only rank 0 needs; weights_tools.split then makes slabs
for these machines with --ratios-from check.json. Standard error carries a table and a sentence for whatever is
wrong, standard output one JSON object. Exit status 0 where nothing is wrong, 1 where something is.
Cost: some fifteen seconds, and 256 MiB of disk for a moment where there is no slab.
"""

import sys
from collections.abc import Sequence

from tpi_mpi.arguments import check_parser, parse_check
from tpi_mpi.options import CheckOptions
from tpi_mpi.parallel import World
from tpi_mpi.program import run_ranks


def main(arguments: Sequence[str] | None = None) -> int:
    return run_ranks(arguments, check_parser, parse_check, _check)


def _check(world: World, options: CheckOptions, began: float) -> None:
    from tpi_mpi.subject import agree

    subject = agree(world, options)
    from tpi_mpi.checkup import check  # with torch, which mistakes need not wait for

    check(world, subject, options)


if __name__ == "__main__":
    sys.exit(main())
