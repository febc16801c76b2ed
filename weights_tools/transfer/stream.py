"""A slab on its way from rank 0's disk to the disk of the machine that its rank runs on.

    rank 0                                             rank r
    the extents of r's slab       ── checksums ──▶     which of them does this disk hold already?
    begins to read the others     ◀── missing ────
                                  ──── chunk ────▶     is it as it was sent, and an extent that ends with it
    reads the next                ──── chunk ────▶     as the source's header says? writes it
                                  ──── chunk ────▶     writes the next
                                                       complete: synced, and given its name

A chunk travels with its checksum behind it. The chunks of a slab pass in order through a few buffers on each side, and
a send is complete when its rank has accepted it. So a slow disk or link holds up its own slab alone, and memory never
holds more than these buffers. All slabs are sent at the same time, so that slow disks are slow together.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import xxhash

from tpi_mpi.comm.tags import Tag
from tpi_mpi.comm.world import ROOT
from tpi_mpi.common.errors import TpiError
from tpi_mpi.weights.disk_threads import DiskThreads, Question
from tpi_mpi.weights.slabs.extents import PAGE
from weights_tools.transfer.extents import CHUNK, Chunk
from weights_tools.transfer.received_file import ReceivedFile

# Buffers for one slab on each side, and how many of them are filled at once.
_BUFFERS, _FILLING = 4, 2
_CHECKSUM_BYTES = 8

Step = Callable[[Chunk, memoryview], Question]


class SourceFile:
    """A slab on rank 0 that is read in chunks, possibly by several threads."""

    def __init__(self, path: Path):
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, chunk: Chunk, buffer: memoryview) -> None:
        """Fills the buffer with a chunk and, behind it, its checksum. Raises TpiError if the disk cannot deliver it."""
        done = 0
        while done < chunk.nbytes:
            try:
                count = os.preadv(self._descriptor, [buffer[done : chunk.nbytes]], chunk.start + done)
            except OSError as error:
                raise TpiError(f"slab {self._path} cannot be read: {error.strerror}") from None
            if count == 0:
                raise TpiError(f"slab {self._path} was truncated while it was being sent; split again")
            done += count
        buffer[chunk.nbytes : chunk.nbytes + _CHECKSUM_BYTES] = _checksum(buffer[: chunk.nbytes])
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, chunk.start, chunk.nbytes, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        os.close(self._descriptor)


def send(
    comm, rank: int, source: SourceFile, chunks: Sequence[Chunk], reading: DiskThreads, sent
) -> Iterator[Question]:
    """Rank 0's side: sends the chunks to ``rank``. ``sent`` is called with each chunk that has been accepted."""

    def read(chunk: Chunk, buffer: memoryview) -> Question:
        return reading.begin(source.read, chunk, buffer)

    def give(chunk: Chunk, buffer: memoryview) -> Question:
        return comm.Issend(buffer[: chunk.nbytes + _CHECKSUM_BYTES], rank, Tag.CHUNK).Test

    return _pass_on(chunks, read, give, sent)


def receive(comm, file: ReceivedFile, chunks: Sequence[Chunk], writing: DiskThreads) -> Iterator[Question]:
    """The side of any other rank. ``writing`` has one thread, so that chunks are written in order."""

    def accept(chunk: Chunk, buffer: memoryview) -> Question:
        return comm.Irecv(buffer[: chunk.nbytes + _CHECKSUM_BYTES], ROOT, Tag.CHUNK).Test

    def write(chunk: Chunk, buffer: memoryview) -> Question:
        return writing.begin(_write, file, chunk, buffer)

    return _pass_on(chunks, accept, write, lambda chunk: None)


def copy(
    source: SourceFile, file: ReceivedFile, chunks: Sequence[Chunk], reading: DiskThreads, writing: DiskThreads, sent
) -> Iterator[Question]:
    """Both sides at once, for rank 0's own slab. ``sent`` is called with each chunk that has been written."""

    def read(chunk: Chunk, buffer: memoryview) -> Question:
        return reading.begin(source.read, chunk, buffer)

    def write(chunk: Chunk, buffer: memoryview) -> Question:
        return writing.begin(_write, file, chunk, buffer)

    return _pass_on(chunks, read, write, sent)


def _pass_on(chunks: Sequence[Chunk], fill: Step, empty: Step, done: Callable[[Chunk], None]) -> Iterator[Question]:
    """Passes chunks through buffers that are used in turn; yields a question whenever it has to wait for something.

    fill, empty: begin to fill a buffer, or to empty it. done: called with each chunk that has left its buffer.
    """
    buffers = [memoryview(mmap.mmap(-1, CHUNK + PAGE)) for _ in range(min(_BUFFERS, len(chunks)))]  # page-aligned
    filled: dict[int, Question] = {}
    emptied: dict[int, Question] = {}
    for index in range(len(chunks) + _BUFFERS):
        before = index - _BUFFERS
        if before >= 0:
            yield emptied.pop(before)
            done(chunks[before])
        if index < len(chunks):
            filled[index] = fill(chunks[index], buffers[index % _BUFFERS])
        ready = index - _FILLING
        if 0 <= ready < len(chunks):
            yield filled.pop(ready)
            emptied[ready] = empty(chunks[ready], buffers[ready % _BUFFERS])


def _write(file: ReceivedFile, chunk: Chunk, buffer: memoryview) -> None:
    data = buffer[: chunk.nbytes]
    if _checksum(data) != buffer[chunk.nbytes : chunk.nbytes + _CHECKSUM_BYTES]:
        raise TpiError("a message from rank 0 was altered on its way; scatter again (what has arrived is kept)")
    file.take(chunk, data)


def _checksum(data: memoryview) -> bytes:
    return xxhash.xxh3_64_digest(data)
