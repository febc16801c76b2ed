"""How the programs that run under mpirun begin and end."""

import gc
import sys
import time
from collections.abc import Callable, Sequence

from tpi_mpi.arguments import Parser
from tpi_mpi.parallel import ROOT, launched_rank, session


def run_program(
    arguments: Sequence[str] | None, parser: Callable[[], Parser], parse: Callable, load: Callable[[], Callable]
) -> int:
    """Runs one program on this rank; returns its exit status.

    parse: makes options of the command line. load: imports what does the work, a function of the world, the options
    and the time the program began. With torch that takes two seconds, which help and mistakes need not wait for.
    """
    began = time.perf_counter()
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        if launched_rank() == ROOT:
            parser().print_help()
        return 0
    with session() as world:
        with world.agreed():
            options = parse(arguments)
        gc.disable()  # nothing of what an import makes is garbage, and the search for it costs a tenth
        run = load()
        gc.freeze()
        gc.enable()
        run(world, options, began)
    return 0
