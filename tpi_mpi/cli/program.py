"""How programs begin and end: alone, or as several ranks under mpirun."""

import gc
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from tpi_mpi.cli.arguments import Parser
from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.world import ROOT, World, launched_rank, start_mpi
from tpi_mpi.common.errors import TpiError, say


def run_alone(program: Callable[[], None]) -> int:
    """Runs a program without MPI; returns its exit status, with one line on standard error for whatever went wrong."""
    try:
        program()
    except TpiError as error:
        say(str(error))
        return error.status
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        sys.stdout = None  # nobody reads on; leave nothing to be flushed at exit
        return 1
    except Exception as error:
        traceback.print_exc()
        say(f"{type(error).__name__}: {error}")
        return 1
    return 0


def run_ranks(arguments: Sequence[str] | None, parser: Callable[[], Parser], parse: Callable, run: Callable) -> int:
    """Runs one program on this rank; returns its exit status.

    parse: turns the command line into options, which have a ``deadline``. run: does the work, a function of the
    world, the options and the time at which the program began. Help and mistakes do not wait for what it imports.
    """
    began = time.perf_counter()
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        if launched_rank() == ROOT:
            parser().print_help()
        return 0
    with start_mpi() as world:
        with world.agreed():
            options = parse(arguments)
        with world.watched(options.deadline):
            run(world, options, began)
    return 0


def run_ranks_on_slabs(
    arguments: Sequence[str] | None,
    parser: Callable[[], Parser],
    parse: Callable,
    load: Callable[[], Callable],
    cold: bool = False,
) -> int:
    """Runs one program that needs this rank's slab; see :func:`run_ranks`.

    load: imports what does the work, a function of the world, the slab, the cores, the options and the time at which
    the program began. With torch that takes two seconds; unless the program is to begin ``cold``, the disk reads
    ahead meanwhile.
    """

    def run(world: World, options, began: float) -> None:
        from tpi_mpi.weights.prefetch import prefetched  # with h5py, which help need not wait for either

        slab, cores = open_slab(world, options.slabs), Cores(world)
        with nullcontext() if cold else prefetched(slab, cores.ranks, options.machine):
            work = _imported(load)
        work(world, slab, cores, options, began)

    return run_ranks(arguments, parser, parse, run)


def open_slab(world: World, directory: Path):
    """This rank's slab. Stops all ranks unless each has its own slab of one split, made for so many ranks."""
    from tpi_mpi.weights.slab_directory import Manifest, own_slab

    with world.agreed():
        slab = own_slab(directory, world.rank, world.size)
    world.same(str(slab.path), slab.identity())
    if world.is_root:
        for line in Manifest.load(directory).warnings():
            say(line)
    return slab


def _imported(load: Callable[[], Callable]) -> Callable:
    gc.disable()  # nothing that an import makes is garbage, and searching for it costs a tenth
    run = load()
    gc.freeze()
    gc.enable()
    return run
