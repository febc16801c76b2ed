"""How programs begin and end: alone, or as several ranks under mpirun."""

import gc
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from tpi_mpi.cli.parser import Parser
from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.world import ROOT, World, launched_rank, start_mpi
from tpi_mpi.common.errors import TpiError, UserError, say

# Seconds within which rank 0 is expected to have ended the job for a mistake on the command line.
_ROOT_FIRST = 5.0


def run_alone(program: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> int:
    """Runs a program without MPI; returns its exit status. What goes wrong is said on standard error.

    arguments: the program's command line; None for that of this process.
    """
    try:
        program(arguments)
    except TpiError as error:
        say(str(error))
        return error.status
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        sys.stdout = None  # nobody is reading any more: leave nothing to flush at exit
        return 1
    except Exception as error:
        traceback.print_exc()
        say(f"{type(error).__name__}: {error}")
        return 1
    return 0


def run_ranks(arguments: Sequence[str] | None, parser: Callable[[], Parser], parse: Callable, run: Callable) -> int:
    """Runs one program on this rank; returns its exit status.

    parser: builds the program's parser, for its help. parse: turns the command line into options, which have a
    ``deadline``. run: does the work, given the world, the options and the time at which the program began; what it
    needs it imports itself, so that help and mistakes do not wait for that.
    """
    began = time.perf_counter()
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        if launched_rank() == ROOT:
            parser().print_help()
        return 0
    try:
        options = parse(arguments)
    except UserError as error:
        return _mistake(error)
    with start_mpi() as world, world.watched(options.deadline):
        run(world, options, began)
    return 0


def _mistake(error: UserError) -> int:
    """Says on rank 0 what is wrong with the command line, which all ranks have read, before MPI is started.

    By its exit, rank 0 ends the job. The others let it go first, or its line might never come out; they speak only
    where rank 0 was given another command line, or the launcher lets them be.
    """
    if launched_rank() != ROOT:
        time.sleep(_ROOT_FIRST)
    say(str(error))
    return error.status


def run_ranks_on_slabs(
    arguments: Sequence[str] | None,
    parser: Callable[[], Parser],
    parse: Callable,
    load: Callable[[], Callable],
    cold: bool = False,
) -> int:
    """Runs one program that needs this rank's slab; see :func:`run_ranks`.

    load: imports and returns what does the work, given the world, the slab, the cores, the options and the time at
    which the program began. Imports take some tenths of a second, during which the disk reads ahead
    unless the program is to start ``cold``.
    """

    def run(world: World, options, began: float) -> None:
        from tpi_mpi.weights.prefetch import prefetched  # imports h5py, which help need not wait for either

        slab, cores = open_slab(world, options.slabs), Cores(world)
        with nullcontext() if cold else prefetched(slab, cores.ranks, options.machine):
            work = _imported(load)
        work(world, slab, cores, options, began)

    return run_ranks(arguments, parser, parse, run)


def open_slab(world: World, directory: Path):
    """Returns this rank's slab. Stops all ranks unless they all have theirs, of one split for this many ranks."""
    from tpi_mpi.weights.slabs.directory import Manifest, own_slab

    with world.agreed():
        slab = own_slab(directory, world.rank, world.size)
    world.same(str(slab.path), slab.identity())
    if world.is_root:
        for line in Manifest.load(directory).warnings():
            say(line)
    return slab


def _imported(load: Callable[[], Callable]) -> Callable:
    from tpi_mpi.kernels.linear import kernels_available

    gc.disable()  # imports create no garbage, and looking for it takes a tenth of their time
    run = load()
    kernels_available()  # imports LLVM, while the disk still reads ahead
    gc.freeze()
    gc.enable()
    return run
