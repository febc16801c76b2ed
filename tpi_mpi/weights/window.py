"""The sliding window over the weights: blocks are fetched ahead of use, used in place, and released after use."""

import threading
from collections.abc import Callable, Sequence
from itertools import cycle

from tpi_mpi.common.errors import DiskHung
from tpi_mpi.common.options.machine import DEFAULT_TIMEOUT
from tpi_mpi.common.trace import Trace
from tpi_mpi.kernels.operand import Tensors
from tpi_mpi.weights.budget import Plan
from tpi_mpi.weights.resident_blocks import ResidentBlocks
from tpi_mpi.weights.slabs.slab import Slab


class SlidingWindow:
    """Delivers the blocks of one slab in cyclic order, over and over, using a bounded amount of memory.

    A daemon thread fetches blocks ahead of use, in the order of use. After the last block comes the first again, so the
    next sweep's first blocks arrive while this sweep ends. A pinned block stays from its first fetch on; for a cyclic
    scan that beats any eviction by recency, which would drop each block just before its next use. Every other block is
    given up after its use.

    A context manager: on leaving it, the thread ends and all blocks are unmapped.

    order: names of the blocks of one sweep.
    patience: seconds after which a disk that delivers nothing is an error.
    used: called with the name of each block after its use.
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
        self._order = tuple(order)
        self._pinned = plan.pinned
        self._used = used
        self._expected = cycle(self._order)
        self._blocks = ResidentBlocks(slab, plan, trace, patience)
        self._thread = threading.Thread(target=self._fetch_all, name="fetch", daemon=True)

    def __enter__(self) -> "SlidingWindow":
        self._blocks.open()
        self._thread.start()
        return self

    def __exit__(self, error_type, *exception) -> None:
        self._blocks.end_fetching()
        hung = error_type is not None and issubclass(error_type, DiskHung)
        self._thread.join(timeout=0 if hung else 5)  # a daemon: a disk that hangs must not keep the program alive
        if not self._thread.is_alive():  # else it still needs its file
            self._blocks.close()

    @property
    def bytes_fetched(self) -> int:
        """Bytes of blocks fetched so far."""
        return self._blocks.bytes_fetched

    def block(self, name: str) -> "_Use":
        """A context manager: the tensors of the next block, by name, as they are stored, valid inside the with-block.

        name: must be the next block in order. Waits until the block has arrived. Raises the error that stopped the
        fetch thread, if any, and DiskHung if the disk delivers nothing for too long.
        """
        return _Use(self, name)

    def peek(self, name: str) -> Tensors | None:
        """The tensors of a pinned block, out of turn; None if it is not pinned, or not in memory yet."""
        return self._blocks.peek(name)

    def begin(self, name: str) -> Tensors:
        """The tensors of the next block, until :meth:`end`; as :meth:`block` tells."""
        expected = next(self._expected)
        assert name == expected, f"block {name} asked for, but {expected} is next"
        return self._blocks.acquire(name)

    def end(self, name: str, failed: bool) -> None:
        """Ends the use of a block; ``failed``: with an error."""
        self._blocks.evict(name)
        if self._used and not failed:
            self._used(name)

    def _fetch_all(self) -> None:
        """The fetch thread: fetches in cyclic order until everything is pinned or the window is closed."""
        try:
            for name in self._order:
                self._blocks.fetch(name)
            for name in cycle([name for name in self._order if name not in self._pinned]):
                if self._blocks.closed:
                    break
                self._blocks.fetch(name)
        except BaseException as error:  # handed to the thread that waits for the block
            self._blocks.fail(error)


class _Use:
    """The context manager of a block's use, of which there is one for each block and token."""

    __slots__ = ("_name", "_window")

    def __init__(self, window: SlidingWindow, name: str):
        self._window, self._name = window, name

    def __enter__(self) -> Tensors:
        return self._window.begin(self._name)

    def __exit__(self, error_type, *exception) -> None:
        self._window.end(self._name, error_type is not None)
