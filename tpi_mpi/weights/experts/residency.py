"""Experts in memory: asked for, waited for, used, given up. Which of them, and in what order, others decide."""

from collections.abc import Collection, Iterable

from tpi_mpi.common.options.machine import DEFAULT_TIMEOUT
from tpi_mpi.common.trace import Trace
from tpi_mpi.kernels.experts.record import Present
from tpi_mpi.model.blocks import expert_name
from tpi_mpi.weights.experts.reader import Read, Reader
from tpi_mpi.weights.experts.sizes import ExpertSizes
from tpi_mpi.weights.experts.slots import Slots
from tpi_mpi.weights.patience import Patience
from tpi_mpi.weights.slabs.slab import Slab

Expert = tuple[int, int]
"""A layer, and the number of an expert there."""


class Residency:
    """A bounded number of one slab's experts in memory. A context manager.

    An expert takes a slot from :meth:`request` until :meth:`evict`. It is compared with its checksum when it is first
    read.

    count: of slots. patience: seconds after which a disk that delivers nothing is an error.
    free: slots that no expert has. bytes_fetched: bytes of experts asked for so far.
    """

    def __init__(self, slab: Slab, count: int, trace: Trace | None = None, patience: float = DEFAULT_TIMEOUT):
        self._slab = slab
        self._slots = Slots(count, ExpertSizes.of(slab).size)
        self._trace = trace or Trace()
        self._patience = Patience(patience)
        self._reader = Reader(slab.path, self._patience.moved)
        self._slot_of: dict[Expert, int] = {}
        self._reads: dict[Expert, Read] = {}  # that may still be under way
        self._verified: set[int] = set()
        self._free = list(range(count))
        self.bytes_fetched = 0

    def __enter__(self) -> "Residency":
        self._reader.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._reader.__exit__(*exception)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def idle(self) -> bool:
        """Whether nothing is being read."""
        return self._reader.busy == 0

    def __contains__(self, expert: Expert) -> bool:
        """Whether it has a slot; it may still be on its way."""
        return expert in self._slot_of

    def request(self, experts: Iterable[Expert], later: bool = False) -> None:
        """Begins to read experts, in this order; there must be a free slot for each.

        later: they may not be needed, so everything else is read first.
        """
        reads = [self._begin(expert) for expert in experts]
        if reads:
            if self._reader.busy == 0:
                self._patience.moved()
            self._reader.ask(reads, later)

    def _begin(self, expert: Expert) -> Read:
        layer, number = expert
        own, slot = self._slab.experts[layer], self._free.pop()
        offset, record = int(own.offsets[number]), own.record(number)
        checksum = None if offset in self._verified else int(own.checksums[number])
        read = Read(f"block {expert_name(*expert)}", offset, self._slots.view(slot, record.nbytes), checksum)
        self._slot_of[expert], self._reads[expert] = slot, read
        self.bytes_fetched += record.nbytes
        return read

    def hurry(self, expert: Expert) -> bool:
        """What was requested, perhaps for later, is needed now; returns whether it is still on its way."""
        if self.here(expert):
            return False
        self._reader.hurry(self._reads[expert])
        return True

    def here(self, expert: Expert) -> bool:
        """Whether a requested expert has arrived. Raises what went wrong, if anything did."""
        read = self._reads.get(expert)
        if read is None:
            return True
        if not read.arrived:
            return False
        if read.failure:
            raise read.failure
        self._verified.add(read.offset)
        del self._reads[expert]
        return True

    def wait_for_any(self, experts: Collection[Expert]) -> None:
        """Returns when some of the requested experts have arrived. Raises DiskHung if the disk delivers nothing."""
        if any(map(self.here, experts)):
            return
        arrival, first = self._reader.arrival, expert_name(*next(iter(experts)))
        with self._trace.span("stall", first), arrival:
            while not arrival.wait_for(
                lambda: any(self._reads[one].arrived for one in experts), self._patience.interval
            ):
                self._patience.check(f"block {first} of slab {self._slab.path}")

    def wait_for_a_read(self) -> None:
        """Returns when anything that is being read has arrived; something must be."""
        assert self._reads, "nothing is being read that could be waited for"
        self.wait_for_any(list(self._reads))

    def present(self, expert: Expert) -> Present:
        """An expert that has arrived, as kernels know it."""
        layer, number = expert
        return Present(number, self._slab.experts[layer].record(number), self._slots.address(self._slot_of[expert]))

    def evict(self, expert: Expert) -> None:
        """Gives up an expert that has arrived; its slot is free for another."""
        self._free.append(self._slot_of.pop(expert))

    def withdraw(self, experts: Iterable[Expert]) -> list[Expert]:
        """Gives up those of some requested experts that are not being read yet; returns them."""
        gone = [expert for expert in experts if expert in self._reads and self._reader.forget(self._reads[expert])]
        for expert in gone:
            self.bytes_fetched -= len(self._reads.pop(expert).target)
            self.evict(expert)
        return gone
