"""Blocks in memory, in bounded bytes: fetched, acquired, evicted. Which of them, and in what order, others decide."""

import threading

from tpi_mpi.common.options.machine import DEFAULT_TIMEOUT
from tpi_mpi.common.trace import Trace
from tpi_mpi.common.units import MIB
from tpi_mpi.kernels.operand import Tensors
from tpi_mpi.weights.budget import Plan
from tpi_mpi.weights.mapping import MappedBlock, SlabFile
from tpi_mpi.weights.patience import Patience
from tpi_mpi.weights.slabs.slab import Slab

# If there is no room for a whole block, at least this many bytes of it are fetched at once.
_LEAST_FETCH = 4 * MIB


class ResidentBlocks:
    """What of a slab's blocks is in memory. One thread fetches them, another uses them.

    The blocks that are not pinned, the one in use included, never exceed the bounds of the plan. A block is compared
    with its checksum when it is first fetched.

    patience: seconds after which a disk that delivers nothing is an error.
    bytes_fetched: bytes of blocks fetched so far. closed: whether fetching is to end.
    """

    def __init__(self, slab: Slab, plan: Plan, trace: Trace | None = None, patience: float = DEFAULT_TIMEOUT):
        self._slab, self._plan = slab, plan
        self._trace = trace or Trace()
        self._patience = Patience(patience)
        self._present: dict[str, MappedBlock] = {}
        self._streamed = 0  # bytes of blocks that are not pinned, in memory or reserved
        self._verified: set[int] = set()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self.closed = False
        self.bytes_fetched = 0

    def open(self) -> None:
        self._file = SlabFile(self._slab.path)

    def end_fetching(self) -> None:
        """Has :meth:`fetch` return soon, if it is under way, and from then on at once."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def close(self) -> None:
        """Unmaps all blocks; nobody may fetch or use any."""
        self._present.clear()  # the page cache may keep its pages, so that the next run starts faster
        self._file.close()

    def fail(self, error: BaseException) -> None:
        """Nothing more is fetched: whoever waits for a block gets this error."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def peek(self, name: str) -> Tensors | None:
        """The tensors of a pinned block; None if it is not pinned, or not in memory yet."""
        with self._changed:
            present = name in self._plan.pinned and name in self._present
            return self._present[name].tensors if present else None

    def acquire(self, name: str) -> Tensors:
        """The tensors of a block, once it has arrived.

        Raises what ended fetching, if anything did, and DiskHung if the disk delivers nothing for too long.
        """
        with self._changed:
            if name not in self._present:
                with self._trace.span("stall", name):
                    self._wait_for_disk(name)
            if name not in self._present:
                raise self._failure
            return self._present[name].tensors

    def _wait_for_disk(self, name: str) -> None:
        self._patience.moved()
        while not self._changed.wait_for(lambda: name in self._present or self._failure, self._patience.interval):
            self._patience.check(f"block {name} of slab {self._slab.path}")

    def evict(self, name: str) -> None:
        """Gives up a block that was acquired, unless it is pinned."""
        if name in self._plan.pinned:
            return
        block = self._present[name]
        block.release()  # before its room is given to the next block, which would exceed the bounds
        with self._changed:
            del self._present[name]
            self._streamed -= block.nbytes
            self._changed.notify_all()

    def fetch(self, name: str) -> None:
        """Brings a block into memory, part by part as there is room, once its last use is over."""
        extent = self._slab.blocks[name]
        if not self._wait_for_turn(name):
            return
        block = self._file.map(extent, verify=extent.offset not in self._verified)
        missing = block.nbytes
        while missing:
            count = missing if name in self._plan.pinned else self._wait_for_room(missing)
            with self._trace.span("fetch", name):
                block.populate(count, cancelled=self._interrupted)
            if self.closed:
                return
            missing -= count
        self._verified.add(extent.offset)
        with self._changed:
            self.bytes_fetched += extent.nbytes
            self._present[name] = block
            self._changed.notify_all()

    def _interrupted(self) -> bool:
        """Whether to stop fetching. Called between two pieces of a block, so it also tells that the disk works."""
        self._patience.moved()
        return self.closed

    def _wait_for_turn(self, name: str) -> bool:
        """Waits until the block's last use is over and there may be one more; false once fetching is to end."""

        def turn() -> bool:
            streamed = sum(present not in self._plan.pinned for present in self._present)
            room = self._plan.depth is None or name in self._plan.pinned or streamed < self._plan.depth
            return name not in self._present and room

        with self._changed:
            self._changed.wait_for(lambda: self.closed or turn())
            return not self.closed

    def _wait_for_room(self, wanted: int) -> int:
        """Waits until there is room for the wanted bytes or a good part of them; reserves and returns as many."""
        least = min(wanted, _LEAST_FETCH)
        with self._changed:
            self._changed.wait_for(lambda: self.closed or self._plan.capacity - self._streamed >= least)
            count = min(wanted, self._plan.capacity - self._streamed)
            self._streamed += count
            return count
