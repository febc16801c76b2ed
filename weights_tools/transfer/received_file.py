"""A rank's slab as it is received."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import xxhash

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.common.files import partial_name, publish
from tpi_mpi.common.units import MIB
from weights_tools.common.direct_file import DirectFile
from weights_tools.transfer.extents import Chunk, Extent, absent_from, is_of

# Bytes after which what was written is synced: where the page cache takes them, as without direct writes, a sync of all
# of a slab in the end would take so long that the disk seemed to hang.
_SYNC_BYTES = 64 * MIB


class ReceivedFile:
    """A slab that is written under its partial name, and gets its own name once every byte has been verified.

    What an interrupted scatter left is believed extent by extent, if the bytes have the source's checksum, and not
    otherwise: there is no journal, which could claim what a power failure has undone.

    path: where the slab belongs. A file that is there stays until the new one is complete.
    source: rank 0's file, for messages. extents: what that consists of.
    missing: the extents that have to be sent; none if the slab is in place, or an interrupted scatter ended just
        before it was.
    moved: called whenever the disk has done a part of something that takes long.
    placed: whether the slab is in place.
    """

    def __init__(self, path: Path, source: str, extents: Sequence[Extent], moved: Callable[[], None] = lambda: None):
        self.path = path.resolve()  # a link keeps leading to the file
        self.source = source
        self.extents = tuple(extents)
        self.missing = self.extents
        self.placed = False
        self._moved = moved
        self._unsynced = 0
        self._partial = partial_name(self.path)
        self._file: DirectFile | None = None

    @property
    def left_over(self) -> int:
        """Bytes that an interrupted scatter left behind."""
        return self._partial.stat().st_size if self._partial.is_file() else 0

    @property
    def lacking(self) -> int:
        """Bytes of disk space that the file still needs, besides what it takes already."""
        if self._file is None:
            return 0
        return max(0, self.extents[-1].stop - os.stat(self._partial).st_blocks * 512)

    def examine(self, verify: bool) -> None:
        """Finds out what is there already. verify: whether a slab in place is read as a whole, not just its header.

        Raises UserError if the file cannot be written.
        """
        try:
            self.placed = is_of(self.path, self.extents)
            if self.placed and not (verify and absent_from(self.path, self.extents, self._moved)):
                self.missing = ()
                return
            self.placed = False
            self.missing = absent_from(self._partial, self.extents, self._moved)
            self._open()
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}; name another directory") from None

    def _open(self) -> None:
        os.close(os.open(self._partial, os.O_WRONLY | os.O_CREAT, 0o666))
        os.truncate(self._partial, min(os.stat(self._partial).st_size, self.extents[-1].stop))
        self._file = DirectFile(self._partial, "scatter again")

    def take(self, chunk: Chunk, data: memoryview) -> None:
        """Writes a chunk of a missing extent; chunks must come in order.

        Raises TpiError, before the last chunk of an extent is written, if the extent does not have the checksum that
        the source's header names.
        """
        if chunk.start == chunk.extent.start:
            self._hasher = xxhash.xxh3_64()
        self._hasher.update(data)
        if chunk.stop == chunk.extent.stop and self._hasher.hexdigest() != chunk.extent.checksum:
            raise TpiError(
                f"block {chunk.extent.name} of slab {self.source} on rank 0 has checksum {self._hasher.hexdigest()} "
                f"instead of {chunk.extent.checksum}: its bytes were altered; split again"
            )
        self._file.write(data, chunk.start)
        self._unsynced += chunk.nbytes
        if self._unsynced >= _SYNC_BYTES:
            self._sync()

    def place(self) -> None:
        """Gives the slab its name, once all of it is on the disk; every missing extent must have been taken."""
        if self._file is None:
            return
        self._sync()
        self.close()
        publish(self.path)
        self.placed = True

    def _sync(self) -> None:
        self._file.sync()
        self._moved()
        self._unsynced = 0

    def close(self) -> None:
        """Closes the file; what has been taken stays for the next scatter."""
        if self._file is not None:
            self._file.close()
            self._file = None
