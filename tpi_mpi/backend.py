"""The engine of a server, which starts it: continues what the server submits, and tells it every token.

    mpirun -np N python -m tpi_mpi.backend SLABS --socket PATH [options]

The server listens on the socket. The engine ends when that is closed. Cost: as of tpi_mpi.generate.
"""

import sys
from collections.abc import Callable, Sequence

from tpi_mpi.cli.program import run_ranks_on_slabs
from tpi_mpi.cli.serving import backend_parser, parse_backend


def main(arguments: Sequence[str] | None = None) -> int:
    return run_ranks_on_slabs(arguments, backend_parser, parse_backend, _load)


def _load() -> Callable:
    from tpi_mpi.serving.backend import answer

    return answer


if __name__ == "__main__":
    sys.exit(main())
