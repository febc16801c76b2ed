"""How the programs that run under mpirun begin and end."""

import gc
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from tpi_mpi.arguments import Parser
from tpi_mpi.parallel import ROOT, World, launched_rank, session
from tpi_mpi.processors import Processors


def run_ranks(arguments: Sequence[str] | None, parser: Callable[[], Parser], parse: Callable, run: Callable) -> int:
    """Runs one program on this rank; returns its exit status.

    parse: makes options of the command line. run: does the work, a function of the world, the options and the time
    the program began. Help and mistakes need not wait for what it imports. A machine that is lost meanwhile ends it
    within the options' ``timeout``.
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
        with world.watched(options.timeout):
            run(world, options, began)
    return 0


def run_program(
    arguments: Sequence[str] | None,
    parser: Callable[[], Parser],
    parse: Callable,
    load: Callable[[], Callable],
    cold: bool = False,
) -> int:
    """Runs one program that needs this rank's slab; see :func:`run_ranks`.

    load: imports what does the work, a function of the world, the slab, the processors, the options and the time
    the program began. With torch that takes two seconds, for which, unless the program is to begin ``cold``, the
    disk need not wait.
    """

    def run(world: World, options, began: float) -> None:
        from tpi_mpi.assembly import open_slab  # with h5py, which help need not wait for either
        from tpi_mpi.head_start import head_start

        slab, processors = open_slab(world, options.slabs), Processors(world)
        with nullcontext() if cold else head_start(slab, processors, options.machine):
            work = _imported(load)
        work(world, slab, processors, options, began)

    return run_ranks(arguments, parser, parse, run)


def _imported(load: Callable[[], Callable]) -> Callable:
    gc.disable()  # nothing of what an import makes is garbage, and the search for it costs a tenth
    run = load()
    gc.freeze()
    gc.enable()
    return run
