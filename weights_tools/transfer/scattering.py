"""All slabs on their way to the machines of their ranks."""

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import xxhash

from tpi_mpi.comm.polling import take_turns, wait
from tpi_mpi.comm.world import ROOT, World
from tpi_mpi.common.errors import TpiError, UserError, say
from tpi_mpi.common.options import ScatterOptions
from tpi_mpi.common.threads import threads
from tpi_mpi.common.units import GIB, format_size
from tpi_mpi.weights.disk_threads import DiskThreads
from tpi_mpi.weights.slabs.directory import MANIFEST, Manifest, open_slabs, slab_path
from weights_tools.common.progress import bytes_bar
from weights_tools.common.target_directory import (
    check_room,
    prepare_for_scatter,
    read_small_files,
    write_small_files,
)
from weights_tools.transfer.extents import Chunk, Extent, chunks_of, extents_of, total
from weights_tools.transfer.received_file import ReceivedFile
from weights_tools.transfer.stream import SourceFile, copy, receive, send

# Threads of rank 0 that read the slabs of all ranks.
_READERS = 2
# Bytes above which reading what was left is worth a line, because it takes a while.
_READ_IN_NO_TIME = GIB


def scatter(world: World, options: ScatterOptions) -> None:
    """Brings every rank's slab and the small files into the directory ``target`` on its machine.

    Called by all ranks together. Stops all of them, before anything is sent, if there are not as many slabs as ranks,
    or if any rank cannot write or has too little room.
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
    """What rank 0 has for a rank: the path of the slab, and its extents."""

    source: str
    extents: tuple[Extent, ...]


class _Scattering:
    """One call of :func:`scatter`. reading: rank 0's slabs. writing: to this rank's directory, in order."""

    def __init__(self, world: World, options: ScatterOptions, reading: DiskThreads, writing: DiskThreads):
        self.world, self.options, self.reading, self.writing = world, options, reading, writing

    def run(self) -> None:
        began = time.perf_counter()
        world, offers = self.world, self.offers()
        path = slab_path(self.options.target, world.rank)
        file = ReceivedFile(path, *offers[world.rank], self.writing.patience.moved)
        with world.agreed():
            self.writing.run(self.examine, file)
        self.check_room(file)
        self.tell_what_is_there(file)
        sent = self.transfer(offers, file)
        with world.agreed():
            self.writing.run(file.place)
        self.give_small_files()
        if world.is_root:
            seconds = time.perf_counter() - began
            say(f"{world.size} slabs are in place; {format_size(sent)} sent in {seconds:.1f} s")

    def offers(self) -> list[_Offer]:
        """Rank 0's offers to all ranks, in rank order; known on every rank."""
        offers: list[_Offer] = []
        with self.world.agreed():
            if self.world.is_root:
                offers = self.reading.run(self.read_offers)
        offers = self.world.broadcast(offers)
        return [_Offer(source, tuple(Extent(*values) for values in rest)) for source, rest in offers]

    def read_offers(self) -> list[_Offer]:
        Manifest.load(self.options.slabs).check_size(self.world.size)
        return [_Offer(str(slab.path), extents_of(slab)) for slab in open_slabs(self.options.slabs)]

    def examine(self, file: ReceivedFile) -> None:
        prepare_for_scatter(self.options.target)
        if file.left_over > _READ_IN_NO_TIME:
            say(f"rank {self.world.rank} on {self.world.host} reads the {format_size(file.left_over)} it already has")
        file.examine(self.options.verify)

    def check_room(self, file: ReceivedFile) -> None:
        """Stops all ranks if a disk has less room than the ranks that write to it need together."""
        target, world = self.options.target, self.world
        disk = [world.host, os.stat(target).st_dev]
        free, needed = shutil.disk_usage(target).free, file.lacking
        claims: Counter = Counter()
        for *owner, claim in world.broadcast(world.gather([*disk, needed])):
            claims[tuple(owner)] += claim
        with world.agreed():
            if needed:
                check_room(target, claims[tuple(disk)], free)

    def tell_what_is_there(self, file: ReceivedFile) -> None:
        """On rank 0: says what does not have to be sent."""
        size, missing = total(file.extents), total(file.missing)
        found = self.world.gather([file.placed, size, size - missing])
        if not self.world.is_root:
            return
        placed = sum(placed for placed, _, _ in found)
        if placed:
            say(f"{placed} of {self.world.size} slabs are already in place")
        there = sum(there for placed, _, there in found if not placed)
        if there:
            whole = sum(size for placed, size, _ in found if not placed)
            say(f"an interrupted scatter is resumed: {format_size(there)} of {format_size(whole)} has arrived")

    def transfer(self, offers: Sequence[_Offer], file: ReceivedFile) -> int:
        """Sends each rank what it lacks. Returns, on rank 0, how many bytes that was; 0 elsewhere."""
        lacking, world = set(file.missing), self.world
        wanted = world.gather([index for index, extent in enumerate(file.extents) if extent in lacking])
        if world.is_root:
            missing = [[offer.extents[index] for index in own] for offer, own in zip(offers, wanted, strict=True)]
            return self.serve(offers, missing, file)
        try:
            take_turns([receive(world.comm, file, chunks_of(file.missing), self.writing)], world.comm)
        except TpiError:
            sys.stderr.write("\n")  # end the line of rank 0's bar
            raise
        return 0

    def serve(self, offers: Sequence[_Offer], missing: Sequence, file: ReceivedFile) -> int:
        """Rank 0's part: sends the missing extents of every slab, and copies those of its own. Returns their bytes."""
        nbytes = sum(map(total, missing))
        if not nbytes:
            return 0
        with ExitStack() as stack:
            bar = stack.enter_context(bytes_bar(nbytes, "scatter"))
            sources = [SourceFile(Path(offer.source)) for offer in offers]

            def sent(chunk: Chunk) -> None:
                bar.update(chunk.nbytes)

            tasks = [copy(sources[0], file, chunks_of(missing[0]), self.reading, self.writing, sent)]
            for rank in range(1, self.world.size):
                tasks.append(send(self.world.comm, rank, sources[rank], chunks_of(missing[rank]), self.reading, sent))
            take_turns(tasks, self.world.comm)
        for source in sources:  # after an error, threads may still read
            source.close()
        return nbytes

    def give_small_files(self) -> None:
        """Writes the small files of rank 0's slabs, and no others, to every rank's directory; the manifest last."""
        files: dict[str, bytes] = {}
        with self.world.agreed():
            if self.world.is_root:
                files = self.reading.run(self.read_small_files)
        files = self.broadcast(files)
        with self.world.agreed():  # ranks may share a directory
            self.writing.run(write_small_files, self.options.target, files, f".{self.world.rank}")

    def read_small_files(self) -> dict[str, bytes]:
        """The small files of rank 0's slabs, by name. Raises UserError if one cannot be read."""
        try:
            manifest = (self.options.slabs / MANIFEST).read_bytes()
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}; split again") from None
        return {**read_small_files(self.options.slabs), MANIFEST: manifest}

    def broadcast(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """Rank 0's files, on every rank."""
        content = bytearray().join(files.values())
        digest = xxhash.xxh3_64_hexdigest(content)
        sizes, digest = self.world.broadcast([[(name, len(data)) for name, data in files.items()], digest])
        if not self.world.is_root:
            content = bytearray(sum(size for _, size in sizes))
        wait([self.world.comm.Ibcast(content, ROOT)])
        if xxhash.xxh3_64_hexdigest(content) != digest:
            raise TpiError("a message from rank 0 was altered on its way; scatter again (what has arrived is kept)")
        received, start = {}, 0
        for name, size in sizes:
            received[name] = bytes(content[start : start + size])
            start += size
        return received
