"""Sends each rank's slab from rank 0's disk to the disk of the machine that the rank runs on.

    mpirun -np 4 --hostfile hosts python -m weights_tools.scatter SLABS TARGET

SLABS is read by rank 0 alone; TARGET is a directory on every machine, and may be the same one on several, or SLABS
itself. Interrupted, it goes on where it was when it is started again.

A slab that is in its place is not sent again. It is known by its header, which has the checksum of every block; a
file that was damaged later still has that header. The run would find the damage, when it first reads the block;
--verify finds it now, and sends that slab again. Cost: each byte crosses the network once, at the rate of rank 0's
link; of what an interrupted scatter left, each machine reads its own part.
"""

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from tpi_mpi.arguments import Parser, add_timeout
from tpi_mpi.assembly import open_slabs
from tpi_mpi.errors import TpiError, UserError, say
from tpi_mpi.manifest import Manifest
from tpi_mpi.parallel import World
from tpi_mpi.program import run_ranks
from tpi_mpi.slabs import slab_path
from tpi_mpi.units import GIB, format_size
from tpi_mpi.waiting import take_turns
from weights_tools import journal
from weights_tools.progress import bytes_bar
from weights_tools.received_file import ReceivedFile
from weights_tools.small_files import give_small_files
from weights_tools.stretches import Chunk, Stretch, chunks_of, stretches_of, total
from weights_tools.transfer import SourceFile, copy, receive, send

# Threads of rank 0 that read; there are as many slabs at once as ranks.
_READERS = 2
# What takes a machine longer to read is worth a line.
_READ_IN_NO_TIME = GIB


def scatter_parser() -> Parser:
    parser = Parser(
        prog="python -m weights_tools.scatter",
        usage="mpirun -np N %(prog)s SLABS TARGET [options]",
        description="Sends each rank's slab to the disk of the machine that the rank runs on.",
    )
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory on rank 0's machine, written by weights_tools.split")
    add("target", metavar="TARGET", type=Path, help="directory on every machine; new, empty, or with slabs")
    add_timeout(parser)
    add("--verify", action="store_true", help="read slabs that are in their place, and send damaged ones again")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    def run(world: World, options, _) -> None:
        scatter(world, options.slabs, options.target, options.verify)

    return run_ranks(arguments, scatter_parser, scatter_parser().parse_args, run)


def scatter(world: World, slabs: Path, target: Path, verify: bool = False) -> None:
    """Brings every rank's slab, and the small files, into the directory ``target`` on its machine.

    Called by all ranks together. Stops all of them before anything is sent where there are not as many slabs as
    ranks, or one of them cannot write, or has too little room.
    """
    began = time.perf_counter()
    world.describe = lambda: "taking its slab" if world.rank else "sending slabs"
    offers = _offers(world, slabs)
    with closing(ReceivedFile(slab_path(target, world.rank), *offers[world.rank])) as file:
        with world.agreed():
            prepare_target(target)
            if file.left_over > _READ_IN_NO_TIME:
                say(f"rank {world.rank} on {world.host} reads {format_size(file.left_over)} that are there")
            file.examine(verify)
        check_room(world, target, file)
        _tell_what_is_there(world, file)
        sent = _transfer(world, offers, file)
        with world.agreed():
            file.place()
    give_small_files(world, slabs, target)
    if world.is_root:
        seconds = time.perf_counter() - began
        say(f"{world.size} slabs are in their place; {format_size(sent)} sent in {seconds:.1f} s")


class Offer(NamedTuple):
    """What rank 0 has for a rank: the file's path, and what it consists of."""

    source: str
    stretches: tuple[Stretch, ...]


def _offers(world: World, slabs: Path) -> list[Offer]:
    """In rank order, on every rank."""
    offers: list[Offer] = []
    with world.agreed():
        if world.is_root:
            Manifest.load(slabs).check_size(world.size)
            offers = [Offer(str(slab.path), stretches_of(slab)) for slab in open_slabs(slabs)]
    return [Offer(source, tuple(Stretch(*values) for values in rest)) for source, rest in world.broadcast(offers)]


def prepare_target(target: Path) -> None:
    """Makes the directory. Raises UserError where it cannot be made, or holds anything but slabs."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in target.iterdir()}
    except OSError as error:
        raise UserError(f"{target} is no directory to write to ({error.strerror}); name another one") from None
    if journal.NAME in names:
        raise UserError(f"{target} holds an interrupted split; complete it, or name another directory")
    visible = [name for name in names if not name.startswith(".")]
    if visible and not any(name == "manifest.json" or name.endswith(".h5") for name in visible):
        raise UserError(f"{target} is not empty and holds no slabs; name another directory")


def check_room(world: World, target: Path, file: ReceivedFile) -> None:
    """Stops all ranks where a disk has less room than all ranks that write to it need."""
    disk = [world.host, os.stat(target).st_dev]
    free, needed = shutil.disk_usage(target).free, file.lacking
    claims: Counter = Counter()
    for *owner, claim in world.broadcast(world.gather([*disk, needed])):
        claims[tuple(owner)] += claim
    with world.agreed():
        if needed and claims[tuple(disk)] > free:
            raise UserError(
                f"the slabs need {format_size(claims[tuple(disk)])}, but the disk of {target} has only "
                f"{format_size(free)} left; free some, or name a directory on another disk"
            )


def _tell_what_is_there(world: World, file: ReceivedFile) -> None:
    """On rank 0: a line about what is not going to be sent."""
    size, missing = total(file.stretches), total(file.missing)
    found = world.gather([file.placed, size, size - missing])
    if not world.is_root:
        return
    placed = sum(placed for placed, _, _ in found)
    if placed:
        say(f"{placed} of {world.size} slabs are in their place already")
    there = sum(there for placed, _, there in found if not placed)
    if there:
        whole = sum(size for placed, size, _ in found if not placed)
        say(f"an interrupted scatter is resumed: {format_size(there)} of {format_size(whole)} are there")


def _transfer(world: World, offers: Sequence[Offer], file: ReceivedFile) -> int:
    """Sends, to each rank, what it lacks. Returns how many bytes that were, on rank 0."""
    lacking = set(file.missing)
    wanted = world.gather([index for index, stretch in enumerate(file.stretches) if stretch in lacking])
    with ThreadPoolExecutor(1, "write") as writer:
        if world.is_root:
            missing = [[offer.stretches[index] for index in own] for offer, own in zip(offers, wanted, strict=True)]
            return _serve(world, offers, missing, file, writer)
        try:
            take_turns([receive(world.comm, file, chunks_of(file.missing), writer)], world.comm)
        except TpiError:
            sys.stderr.write("\n")  # rank 0's bar has not ended its line
            raise
        return 0


def _serve(world: World, offers: Sequence[Offer], missing: Sequence, file: ReceivedFile, writer: Executor) -> int:
    """Rank 0's part: the missing stretches of every rank's slab, those of its own too."""
    nbytes = sum(map(total, missing))
    if not nbytes:
        return 0
    with ExitStack() as stack:
        bar = stack.enter_context(bytes_bar(nbytes, "scatter"))
        readers = stack.enter_context(ThreadPoolExecutor(_READERS, "read"))
        sources = [stack.enter_context(closing(SourceFile(Path(offer.source)))) for offer in offers]

        def sent(chunk: Chunk) -> None:
            bar.update(chunk.nbytes)

        tasks = [copy(sources[0], file, chunks_of(missing[0]), readers, writer, sent)]
        for rank in range(1, world.size):
            tasks.append(send(world.comm, rank, sources[rank], chunks_of(missing[rank]), readers, sent))
        take_turns(tasks, world.comm)
    return nbytes


if __name__ == "__main__":
    sys.exit(main())
