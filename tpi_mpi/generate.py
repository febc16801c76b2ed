"""Continues texts with a model that was split into slabs, one rank a slab.

    mpirun -np 4 --hostfile hosts python -m tpi_mpi.generate SLABS --prompt "..."

Standard output carries the text (or, for a prompts file without --output, one JSON object a text); everything
else goes to standard error. Cost: every rank reads its slab once a token, or keeps of it what its memory holds.
"""

import gc
import sys
import time
from collections.abc import Sequence

from tpi_mpi.arguments import generate_parser, parse_generate
from tpi_mpi.parallel import ROOT, launched_rank, session


def main(arguments: Sequence[str] | None = None) -> int:
    began = time.perf_counter()
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        if launched_rank() == ROOT:
            generate_parser().print_help()
        return 0
    with session() as world:
        with world.agreed():
            options = parse_generate(arguments)
        _program()(world, options, began)
    return 0


def _program():
    """The program proper, imported only now: with torch that takes two seconds, which help and mistakes need not."""
    gc.disable()  # nothing of what an import makes is garbage, and the search for it costs a tenth
    from tpi_mpi.run import run

    gc.freeze()
    gc.enable()
    return run


if __name__ == "__main__":
    sys.exit(main())
