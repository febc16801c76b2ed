"""Continues prompts with a model that was split into slabs, one rank a slab.

    mpirun -np 4 --hostfile hosts python -m tpi_mpi.generate SLABS --prompt "..."

Standard output carries the text (or, for a prompts file without --output, one JSON object a request); everything
else goes to standard error. Cost: every rank reads its slab once a token, or keeps of it what its memory holds.
"""

import sys
from collections.abc import Callable, Sequence

from tpi_mpi.cli.arguments import generate_parser, parse_generate
from tpi_mpi.cli.program import run_ranks_on_slabs


def main(arguments: Sequence[str] | None = None) -> int:
    return run_ranks_on_slabs(arguments, generate_parser, parse_generate, _load)


def _load() -> Callable:
    from tpi_mpi.offline.run import generate

    return generate


if __name__ == "__main__":
    sys.exit(main())
