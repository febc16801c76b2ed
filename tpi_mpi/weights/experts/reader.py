"""Threads that read ranges of a slab into memory: what is needed now before what may be needed later."""

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from tpi_mpi.common.errors import DiskHung, TpiError
from tpi_mpi.common.units import MIB

# As many reads as a disk needs at once to deliver all it can; each is one expert, of some hundred KiB at least.
_THREADS = 4
# A large expert is read in pieces of this size, so that it is seen that the disk works, and reading can be ended.
_PIECE = 16 * MIB
_DIRECT = getattr(os, "O_DIRECT", 0)


@dataclass(eq=False, slots=True)
class Read:
    """A range of the file on its way into memory.

    name: what it is, for messages. target: where it goes. checksum: XXH3 to compare with; None if it was before.
    arrived: whether it is there. failure: why it never will be.
    """

    name: str
    offset: int
    target: memoryview
    checksum: int | None
    arrived: bool = False
    failure: TpiError | None = None


class Reader:
    """Reads from one file, directly where its filesystem allows it. A context manager.

    path: of the file. moved: called whenever the disk has delivered something, by any thread.
    arrival: notified when a read is done. busy: how many reads are asked for or under way.
    """

    def __init__(self, path: Path, moved: Callable[[], None]):
        self._path, self._moved = path, moved
        self.arrival = threading.Condition()
        self._now: deque[Read] = deque()
        self._later: dict[int, Read] = {}  # in order, by identity: some are hurried or forgotten
        self.busy = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name="experts", daemon=True) for _ in range(_THREADS)]

    def __enter__(self) -> "Reader":
        self._plain = os.open(self._path, os.O_RDONLY)
        self._direct = self._open_direct()
        self._reads_directly = self._direct is not None
        for thread in self._threads:
            thread.start()
        return self

    def _open_direct(self) -> int | None:
        """A descriptor for direct reads; None if this filesystem has none."""
        with suppress(OSError):
            return os.open(self._path, os.O_RDONLY | _DIRECT) if _DIRECT else None
        return None

    def __exit__(self, error_type, *exception) -> None:
        with self.arrival:
            self._closed = True
            self._now.clear()
            self._later.clear()
            self.arrival.notify_all()
        hung = error_type is not None and issubclass(error_type, DiskHung)
        for thread in self._threads:
            thread.join(timeout=0 if hung else 5)  # daemons: a disk that hangs keeps no program alive
        if not any(thread.is_alive() for thread in self._threads):
            for descriptor in (self._plain, self._direct):
                if descriptor is not None:
                    os.close(descriptor)

    def ask(self, reads: list[Read], later: bool = False) -> None:
        """Has ranges read in this order; ``later``: when nothing else is left to read."""
        with self.arrival:
            if later:
                self._later.update((id(read), read) for read in reads)
            else:
                self._now.extend(reads)
            self.busy += len(reads)
            self.arrival.notify_all()

    def hurry(self, read: Read) -> None:
        """What was asked for later is needed now."""
        with self.arrival:
            if self._later.pop(id(read), None):
                self._now.append(read)
                self.arrival.notify_all()

    def forget(self, read: Read) -> bool:
        """Gives up what was asked for later; returns whether it was not begun yet."""
        with self.arrival:
            forgotten = self._later.pop(id(read), None) is not None
            self.busy -= forgotten
            return forgotten

    def _work(self) -> None:
        while read := self._next():
            try:
                self._read(read)
            except TpiError as error:
                read.failure = error
            except BaseException as error:  # handed to whoever waits
                read.failure = TpiError(f"{read.name} of slab {self._path} cannot be read: {error}")
            with self.arrival:
                read.arrived = True
                self.busy -= 1
                self.arrival.notify_all()

    def _next(self) -> Read | None:
        with self.arrival:
            while not self._closed:
                if self._now:
                    return self._now.popleft()
                if self._later:
                    return self._later.pop(next(iter(self._later)))
                self.arrival.wait()
            return None

    def _read(self, read: Read) -> None:
        done, nbytes = 0, len(read.target)
        try:
            while done < nbytes and not self._closed:
                count = self._some(read.target[done : done + _PIECE], read.offset + done)
                if count == 0:
                    raise OSError(errno.EIO, "the file ends too early")
                done += count
                self._moved()
        except OSError as error:
            raise TpiError(f"{read.name} of slab {self._path} cannot be read: {error.strerror}") from None
        if read.checksum is not None and (found := xxhash.xxh3_64_intdigest(read.target)) != read.checksum:
            raise TpiError(
                f"{read.name} of slab {self._path} has checksum {found:016x} instead of {read.checksum:016x}: its "
                "bytes were altered; copy the slab again or split again"
            )

    def _some(self, target: memoryview, offset: int) -> int:
        """Reads a part of a range; returns how many bytes that was."""
        if self._reads_directly:
            try:
                return os.preadv(self._direct, [target], offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._reads_directly = False  # some filesystems open a file for direct reads, and then refuse them
        count = os.preadv(self._plain, [target], offset)
        if hasattr(os, "posix_fadvise"):  # or it would be in memory twice
            os.posix_fadvise(self._plain, offset, count, os.POSIX_FADV_DONTNEED)
        return count
