"""Measures a run beside the lower bound that these machines and their network set for it.

    mpirun -np 4 --hostfile hosts python -m tpi_mpi.bench SLABS --memory 3GiB

Standard output carries one JSON object, standard error a table of it. The run starts cold: the slabs' own pages are
dropped from the page cache first. Cost: one sweep per token, and some seconds for the probes.
"""

import sys
from collections.abc import Callable, Sequence

from tpi_mpi.cli.arguments import bench_parser, parse_bench
from tpi_mpi.cli.program import run_ranks_on_slabs


def main(arguments: Sequence[str] | None = None) -> int:
    return run_ranks_on_slabs(arguments, bench_parser, parse_bench, _load, cold=True)


def _load() -> Callable:
    from tpi_mpi.measurement.benchmark import measure

    return measure


if __name__ == "__main__":
    sys.exit(main())
