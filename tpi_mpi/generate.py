"""Continues prompts with a model that was split into slabs, one slab per rank.

    mpirun -np 4 --hostfile hosts python -m tpi_mpi.generate SLABS --prompt "..."

Standard output carries the text (or, for a prompts file without --output, one JSON object per request); everything
else goes to standard error. Cost: for every token, each rank reads its slab, except for what it has memory to keep.
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
