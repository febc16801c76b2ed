"""All slabs on their way to the machines of their ranks, and those of a draft behind them."""

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from tpi_mpi.comm.polling import take_turns
from tpi_mpi.comm.world import ROOT, World
from tpi_mpi.common.errors import TpiError, say
from tpi_mpi.common.options.programs import ScatterOptions
from tpi_mpi.common.threads import threads
from tpi_mpi.common.units import GIB, format_size
from tpi_mpi.weights.disk_threads import DiskThreads, Question
from tpi_mpi.weights.slabs.directory import DRAFT, Manifest, has_draft, open_draft, open_slabs, slab_path
from weights_tools.common.progress import bytes_bar
from weights_tools.common.target_directory import check_room, prepare_for_scatter, remove_draft
from weights_tools.transfer.extents import Chunk, Extent, chunks_of, extents_of, total
from weights_tools.transfer.received_file import ReceivedFile
from weights_tools.transfer.small_files import give_small_files
from weights_tools.transfer.stream import SourceFile, copy, receive, send

# Threads of rank 0 that read the slabs of all ranks.
_READERS = 2
# Bytes above which reading what was left is worth a line, because it takes a while.
_READ_IN_NO_TIME = GIB


def scatter(world: World, options: ScatterOptions) -> None:
    """Brings every rank's slab and the small files into the directory ``target`` on its machine; of a draft too.

    Called by all ranks together. Stops all of them, before anything is sent, if there are not as many slabs as ranks,
    or if any rank cannot write or has too little room. Where the slabs have no draft, one that is in the target is
    removed: it may be of slabs that were there before.
    """
    with ExitStack() as stack:
        stack.enter_context(world.doing(lambda: "taking its slab" if world.rank else "sending slabs"))
        readers, writers = stack.enter_context(threads(_READERS, "read")), stack.enter_context(threads(1, "write"))
        silence = options.deadline.silence
        scattering = _Scattering(
            world,
            options,
            reading=DiskThreads(readers, str(options.slabs), silence),
            writing=DiskThreads(writers, str(options.target), silence),
        )
        scattering.run()


class _Offer(NamedTuple):
    """What rank 0 has for a rank: the folder in SLABS and in TARGET, the path of the slab there, and its extents."""

    folder: str
    source: str
    extents: tuple[Extent, ...]

    def only(self, indices: Sequence[int]) -> "_Offer":
        """The offer of some of the extents."""
        return self._replace(extents=tuple(self.extents[index] for index in indices))


class _Scattering:
    """One call of :func:`scatter`. reading: rank 0's slabs. writing: to this rank's directory, in order.

    Each rank has an offer of its slab and, where there is a draft, one of the draft's.
    """

    def __init__(self, world: World, options: ScatterOptions, reading: DiskThreads, writing: DiskThreads):
        self.world, self.options, self.reading, self.writing = world, options, reading, writing

    def run(self) -> None:
        began = time.perf_counter()
        world, offers = self.world, self.offers()
        self.folders = [offer.folder for offer in offers[world.rank]]
        files = [self.file(offer) for offer in offers[world.rank]]
        with world.agreed():
            self.writing.run(self.examine, files)
        self.check_room(files)
        self.tell_what_is_there(files)
        sent = self.transfer(offers, files)
        with world.agreed():
            self.writing.run(self.place, files)
        self.give_small_files()
        if world.is_root:
            seconds = time.perf_counter() - began
            drafting = f" and {world.size} of their draft" if DRAFT in self.folders else ""
            say(f"{world.size} slabs{drafting} are in place; {format_size(sent)} sent in {seconds:.1f} s")

    def offers(self) -> list[list[_Offer]]:
        """Rank 0's offers to all ranks, in rank order; known on every rank."""
        offers: list[list[_Offer]] = []
        with self.world.agreed():
            if self.world.is_root:
                offers = self.reading.run(self.read_offers)
        offers = self.world.broadcast(offers)
        return [[_Offer(*names, tuple(Extent(*values) for values in rest)) for *names, rest in own] for own in offers]

    def read_offers(self) -> list[list[_Offer]]:
        Manifest.load(self.options.slabs).check_size(self.world.size)
        slabs = {".": open_slabs(self.options.slabs)}
        if has_draft(self.options.slabs):
            slabs[DRAFT] = open_draft(self.options.slabs, slabs["."][0])
        offers = [[_Offer(folder, str(slab.path), extents_of(slab)) for slab in own] for folder, own in slabs.items()]
        return [list(own) for own in zip(*offers, strict=True)]

    def file(self, offer: _Offer) -> ReceivedFile:
        path = slab_path(self.options.target / offer.folder, self.world.rank)
        return ReceivedFile(path, offer.source, offer.extents, self.writing.patience.moved)

    def examine(self, files: Sequence[ReceivedFile]) -> None:
        for folder in self.folders:
            prepare_for_scatter(self.options.target / folder)
        left_over = sum(file.left_over for file in files)
        if left_over > _READ_IN_NO_TIME:
            say(f"rank {self.world.rank} on {self.world.host} reads the {format_size(left_over)} it already has")
        for file in files:
            file.examine(self.options.verify)

    def check_room(self, files: Sequence[ReceivedFile]) -> None:
        """Stops all ranks if a disk has less room than the ranks that write to it need together."""
        target, world = self.options.target, self.world
        disk = [world.host, os.stat(target).st_dev]
        free, needed = shutil.disk_usage(target).free, sum(file.lacking for file in files)
        claims: Counter = Counter()
        for *owner, claim in world.broadcast(world.gather([*disk, needed])):
            claims[tuple(owner)] += claim
        with world.agreed():
            if needed:
                check_room(target, claims[tuple(disk)], free)

    def tell_what_is_there(self, files: Sequence[ReceivedFile]) -> None:
        """On rank 0: says what does not have to be sent."""
        found = self.world.gather([[file.placed, total(file.extents), total(file.missing)] for file in files])
        if not self.world.is_root:
            return
        found = list(chain.from_iterable(found))
        placed = sum(placed for placed, _, _ in found)
        if placed:
            say(f"{placed} of {len(found)} slabs are already in place")
        there = sum(size - missing for placed, size, missing in found if not placed)
        if there:
            whole = sum(size for placed, size, _ in found if not placed)
            say(f"an interrupted scatter is resumed: {format_size(there)} of {format_size(whole)} has arrived")

    def transfer(self, offers: Sequence[Sequence[_Offer]], files: Sequence[ReceivedFile]) -> int:
        """Sends each rank what it lacks. Returns, on rank 0, how many bytes that was; 0 elsewhere."""
        wanted = self.world.gather([_indices_of_missing(file) for file in files])
        if self.world.is_root:
            pairs = (zip(own, few, strict=True) for own, few in zip(offers, wanted, strict=True))
            return self.serve([[offer.only(few) for offer, few in own] for own in pairs], files)
        try:
            take_turns([self.receive_all(files)], self.world.comm)
        except TpiError:
            sys.stderr.write("\n")  # end the line of rank 0's bar
            raise
        return 0

    def receive_all(self, files: Sequence[ReceivedFile]) -> Iterator[Question]:
        """What this rank lacks, slab by slab."""
        for file in files:
            yield from receive(self.world.comm, file, chunks_of(file.missing), self.writing)

    def serve(self, missing: Sequence[Sequence[_Offer]], files: Sequence[ReceivedFile]) -> int:
        """Rank 0's part: sends what every rank's slabs lack, and copies it to its own. Returns how many bytes."""
        nbytes = sum(total(offer.extents) for own in missing for offer in own)
        if not nbytes:
            return 0
        with ExitStack() as stack:
            bar = stack.enter_context(bytes_bar(nbytes, "scatter"))
            sources = {offer.source: SourceFile(Path(offer.source)) for own in missing for offer in own}

            def sent(chunk: Chunk) -> None:
                bar.update(chunk.nbytes)

            tasks = [self.send_all(rank, own, sources, files, sent) for rank, own in enumerate(missing)]
            take_turns(tasks, self.world.comm)
        for source in sources.values():  # after an error, threads may still read
            source.close()
        return nbytes

    def send_all(
        self,
        rank: int,
        missing: Sequence[_Offer],
        sources: Mapping[str, SourceFile],
        files: Sequence[ReceivedFile],
        sent: Callable[[Chunk], None],
    ) -> Iterator[Question]:
        """What one rank lacks, slab by slab."""
        for offer, file in zip(missing, files, strict=True):
            source, chunks = sources[offer.source], chunks_of(offer.extents)
            if rank == ROOT:
                yield from copy(source, file, chunks, self.reading, self.writing, sent)
            else:
                yield from send(self.world.comm, rank, source, chunks, self.reading, sent)

    def place(self, files: Sequence[ReceivedFile]) -> None:
        for file in files:
            file.place()

    def give_small_files(self) -> None:
        """Those of the slabs last, so that their manifest follows that of a draft."""
        slabs, target = self.options.slabs, self.options.target
        if DRAFT not in self.folders:
            with self.world.agreed():
                self.writing.run(remove_draft, target)
        for folder in reversed(self.folders):
            give_small_files(self.world, slabs / folder, target / folder, self.reading, self.writing)


def _indices_of_missing(file: ReceivedFile) -> list[int]:
    missing = set(file.missing)
    return [index for index, extent in enumerate(file.extents) if extent in missing]
