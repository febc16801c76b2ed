"""The sliding window over the weights: blocks are fetched ahead of use, used in place, and released after use."""

import threading
from collections.abc import Callable, Sequence
from itertools import cycle

from tpi_mpi.common.errors import DiskHung
from tpi_mpi.common.options import DEFAULT_TIMEOUT
from tpi_mpi.common.trace import Trace
from tpi_mpi.common.units import MIB
from tpi_mpi.kernels.operand import Tensors
from tpi_mpi.weights.budget import Plan
from tpi_mpi.weights.mapping import MappedBlock, SlabFile
from tpi_mpi.weights.patience import Patience
from tpi_mpi.weights.slabs.slab import Slab

# If the window has no room for a whole block, at least this many bytes of it are fetched at once.
_LEAST_FETCH = 4 * MIB


class SlidingWindow:
    """Delivers the blocks of one slab in cyclic order, over and over, using a bounded amount of memory.

    A daemon thread fetches blocks ahead of use. The blocks that are not pinned, the one in use included, never exceed
    the bounds of the plan. After the last block comes the first again, so the next sweep's first blocks arrive while
    this sweep ends. A pinned block stays from its first fetch on; for a cyclic scan that beats any eviction by recency,
    which would drop each block just before its next use.

    A context manager: on leaving it, the thread ends and all blocks are unmapped.

    order: names of the blocks of one sweep.
    patience: seconds after which a disk that delivers nothing is an error.
    used: called with the name of each block after its use.
    bytes_fetched: bytes of blocks fetched so far.
    """

    def __init__(
        self,
        slab: Slab,
        order: Sequence[str],
        plan: Plan,
        trace: Trace | None = None,
        patience: float = DEFAULT_TIMEOUT,
        used: Callable[[str], None] | None = None,
    ):
        self._slab = slab
        self._order = tuple(order)
        self._plan = plan
        self._trace = trace or Trace()
        self._patience = Patience(patience)
        self._used = used
        self._expected = cycle(self._order)
        self._present: dict[str, MappedBlock] = {}
        self._streamed = 0  # bytes of blocks that are not pinned, in memory or reserved
        self._verified: set[int] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._fetch_all, name="fetch", daemon=True)
        self.bytes_fetched = 0

    def __enter__(self) -> "SlidingWindow":
        self._file = SlabFile(self._slab.path)
        self._thread.start()
        return self

    def __exit__(self, error_type, *exception) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        hung = error_type is not None and issubclass(error_type, DiskHung)
        self._thread.join(timeout=0 if hung else 5)  # a daemon: a disk that hangs must not keep the program alive
        if self._thread.is_alive():
            return  # with its file open
        self._present.clear()  # the page cache may keep its pages, so that the next run starts faster
        self._file.close()

    def block(self, name: str) -> "_Use":
        """A context manager: the tensors of the next block, by name, as they are stored, valid inside the with-block.

        name: must be the next block in order. Waits until the block has arrived. Raises the error that stopped the
        fetch thread, if any, and DiskHung if the disk delivers nothing for too long.
        """
        return _Use(self, name)

    def peek(self, name: str) -> Tensors | None:
        """The tensors of a pinned block, out of turn; None if it is not pinned, or not in memory yet."""
        with self._changed:
            present = name in self._plan.pinned and name in self._present
            return self._present[name].tensors if present else None

    def begin(self, name: str) -> Tensors:
        """The tensors of the next block, until :meth:`end`; as :meth:`block` tells."""
        expected = next(self._expected)
        assert name == expected, f"block {name} asked for, but {expected} is next"
        return self._wait_for(name).tensors

    def end(self, name: str, failed: bool) -> None:
        """Ends the use of a block; ``failed``: with an error."""
        if name not in self._plan.pinned:
            self._release(name)
        if self._used and not failed:
            self._used(name)

    def _wait_for(self, name: str) -> MappedBlock:
        with self._changed:
            if name not in self._present:
                with self._trace.span("stall", name):
                    self._wait_for_disk(name)
            if name not in self._present:
                raise self._failure
            return self._present[name]

    def _wait_for_disk(self, name: str) -> None:
        self._patience.moved()
        while not self._changed.wait_for(lambda: name in self._present or self._failure, self._patience.interval):
            self._patience.check(f"block {name} of slab {self._slab.path}")

    def _interrupted(self) -> bool:
        """Whether to stop fetching. Called between two pieces of a block, so it also tells that the disk works."""
        self._patience.moved()
        return self._closed

    def _release(self, name: str) -> None:
        block = self._present[name]
        block.release()  # before its room in the window is given to the next block, which would exceed the bounds
        with self._changed:
            del self._present[name]
            self._streamed -= block.nbytes
            self._changed.notify_all()

    def _fetch_all(self) -> None:
        """The fetch thread: fetches in cyclic order until everything is pinned or the window is closed."""
        try:
            for name in self._order:
                self._fetch(name)
            for name in cycle([name for name in self._order if name not in self._plan.pinned]):
                if self._closed:
                    break
                self._fetch(name)
        except BaseException as error:  # handed to the thread that waits for the block
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _fetch(self, name: str) -> None:
        extent = self._slab.blocks[name]
        if not self._wait_for_turn(name):
            return
        block = self._file.map(extent, verify=extent.offset not in self._verified)
        missing = block.nbytes
        while missing:
            count = missing if name in self._plan.pinned else self._wait_for_room(missing)
            with self._trace.span("fetch", name):
                block.populate(count, cancelled=self._interrupted)
            if self._closed:
                return
            missing -= count
        self._verified.add(extent.offset)
        with self._changed:
            self.bytes_fetched += extent.nbytes
            self._present[name] = block
            self._changed.notify_all()

    def _wait_for_turn(self, name: str) -> bool:
        """Waits until the block's last use is over and the window may hold one more; false once it is closed."""

        def turn() -> bool:
            streamed = sum(present not in self._plan.pinned for present in self._present)
            room = self._plan.depth is None or name in self._plan.pinned or streamed < self._plan.depth
            return name not in self._present and room

        with self._changed:
            self._changed.wait_for(lambda: self._closed or turn())
            return not self._closed

    def _wait_for_room(self, wanted: int) -> int:
        """Waits until there is room for the wanted bytes or a good part of them; reserves and returns as many."""
        least = min(wanted, _LEAST_FETCH)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._plan.capacity - self._streamed >= least)
            count = min(wanted, self._plan.capacity - self._streamed)
            self._streamed += count
            return count


class _Use:
    """The context manager of a block's use, of which there is one for each block and token."""

    __slots__ = ("_name", "_window")

    def __init__(self, window: SlidingWindow, name: str):
        self._window, self._name = window, name

    def __enter__(self) -> Tensors:
        return self._window.begin(self._name)

    def __exit__(self, error_type, *exception) -> None:
        self._window.end(self._name, error_type is not None)
