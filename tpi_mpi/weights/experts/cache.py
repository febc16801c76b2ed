"""What stays in memory: of each layer, the experts that were used last.

Every layer has a share of the slots, and keeps that many. One list for all layers would do worse: a sweep goes through
them in turn, so with less room than one token needs, each expert would be gone just before it is wanted again.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tpi_mpi.common.trace import Trace
from tpi_mpi.kernels.experts.record import Present
from tpi_mpi.weights.experts.counts import Counts, ExpertUsage
from tpi_mpi.weights.experts.fetching import Fetching
from tpi_mpi.weights.experts.residency import Expert, Residency
from tpi_mpi.weights.experts.sizes import ExpertSizes
from tpi_mpi.weights.experts.trust import Trust
from tpi_mpi.weights.slabs.slab import Slab


class ExpertCache:
    """Delivers the experts that routers ask for, and decides which of them stay.

    shares: by layer, how many experts stay. counts: how often what was wanted was there.
    """

    def __init__(self, slab: Slab, residency: Residency, shares: Mapping[int, int], trace: Trace):
        self._slab, self._residency, self._trace = slab, residency, trace
        self.shares = shares
        self._kept: dict[int, dict[int, None]] = {layer: {} for layer in shares}  # the least recently used first
        self._value: dict[int, int] = {}  # of the experts that are wanted now, by their numbers
        self._ahead: set[Expert] = set()  # what is read, or was, because it may be wanted next
        self._guessed = False  # whether by a guess
        self._trust = Trust()
        self.counts = Counts()

    @property
    def bytes_fetched(self) -> int:
        """Bytes of experts read so far."""
        return self._residency.bytes_fetched

    def usage(self) -> ExpertUsage:
        """What has been asked for so far."""
        sizes = ExpertSizes.of(self._slab)
        return ExpertUsage(sum(self.shares.values()), sizes.most, sizes.size, replace(self.counts))

    def fetch(
        self, layer: int, wanted: Sequence[int], in_order: bool, value: Iterable[int]
    ) -> Iterator[Sequence[Present]]:
        """The wanted experts of a layer, some at a time: those that are there first, the others as they arrive.

        Those that are missing are read together. What is delivered stays until the next are asked for.

        wanted: ascending. in_order: whether they must be delivered so. value: the same, those last that are most worth
        keeping.
        """
        kept, value = self._kept[layer], list(value)
        self._value = {number: place for place, number in enumerate(value)}
        read = self._settle_ahead(layer, wanted)
        missing = [number for number in wanted if number not in kept]
        coming = {number for number in wanted if number in kept and self._residency.hurry((layer, number))}
        self._count(layer, wanted, [*missing, *(coming | read)])
        fetching = Fetching(layer, wanted, missing, self._residency, self._make_room, kept)
        for some in fetching.deliveries(in_order):
            yield [self._residency.present((layer, number)) for number in some]
        for number in value:
            if number in kept:  # and not computed and given up for another
                del kept[number]
                kept[number] = None
        self._trim(layer)

    def read_all(self) -> None:
        """Begins to read every expert in the background, if all of them stay."""
        everything = [(layer, number) for layer, own in self._slab.experts.items() for number in range(len(own))]
        if len(everything) == sum(self.shares.values()):
            self._residency.request(everything, later=True)
            self._kept = {layer: dict.fromkeys(range(len(own))) for layer, own in self._slab.experts.items()}

    def worth_guessing(self, layer: int) -> bool:
        """Whether reading what a layer may want next promises to save time: not while the disk is busy, nor if most
        guesses of late were wrong.
        """
        room = self.shares[layer] < len(self._slab.experts[layer])
        return room and self._residency.idle and self._trust.given()

    def guess(self, layer: int, numbers: Iterable[int]) -> None:
        """Begins to read what the layer whose turn is next may want, as far as there are free slots."""
        self.read_ahead(layer, numbers)
        self._guessed = True
        self.counts.guessed += len(self._ahead)

    def read_ahead(self, layer: int, numbers: Iterable[int]) -> None:
        """Does the same for what the layer will want as good as certainly."""
        kept = self._kept[layer]
        new = [number for number in numbers if number not in kept][: self._residency.free]
        self._ahead, self._guessed = {(layer, number) for number in new}, False
        self._residency.request([(layer, number) for number in new], later=True)
        self._kept[layer] = dict.fromkeys(new) | kept  # the first to go, unless they are used

    def _settle_ahead(self, layer: int, wanted: Iterable[int]) -> set[int]:
        """Of what was read ahead, the numbers that are wanted; the others need not be read, if that has not begun."""
        if not self._ahead:
            return set()
        right = self._ahead.intersection((layer, number) for number in wanted)
        withdrawn = self._residency.withdraw(self._ahead - right)
        for other, number in withdrawn:
            del self._kept[other][number]
        for other, number in self._ahead.difference(right, withdrawn):
            self.counts.bytes_wasted += self._slab.experts[other].record(number).nbytes
        if self._guessed:
            self.counts.guessed_right += len(right)
            self._trust.note(len(right), len(self._ahead))
        self._ahead = set()
        return {number for _, number in right}

    def _count(self, layer: int, wanted: Sequence[int], missed: Sequence[int]) -> None:
        own, counts = self._slab.experts[layer], self.counts
        counts.wanted += len(wanted)
        counts.missed += len(missed)
        counts.bytes_wanted += sum(own.record(number).nbytes for number in wanted)
        counts.bytes_missed += sum(own.record(number).nbytes for number in missed)
        self._trace.experts(layer, len(wanted), len(missed))

    def _make_room(self, layer: int, needed: Collection[int], at_any_cost: bool) -> bool:
        """Frees a slot if there is none; returns whether there is one.

        That of one of the layer's own experts, but not of the needed ones, nor, unless it must be, of those that are
        worth keeping: the least recently used first, then the least valuable. Or else of what other layers have beyond
        their shares, because it was read ahead and not wanted.
        """
        if self._residency.free:
            return True
        worth = len(self._value) if at_any_cost else len(self._value) - self.shares[layer]
        places = {number: self._value.get(number, -1) for number in self._kept[layer] if number not in needed}
        free = sorted((number for number, place in places.items() if place < worth), key=places.get)
        if any(self._give_up(layer, number) for number in free):
            return True
        others = (other for other in self._kept if other != layer)
        return any(self._trim(other) for other in others)

    def _trim(self, layer: int) -> bool:
        """Gives up what is more than a layer's share, the least recently used first; returns whether that was any."""
        kept = self._kept[layer]
        extra = max(0, len(kept) - self.shares[layer])
        gone = [self._give_up(layer, number) for number in list(kept)[:extra]]
        return any(gone)

    def _give_up(self, layer: int, number: int) -> bool:
        """Gives up an expert, but not one that is still on its way; returns whether it did."""
        if not self._residency.here((layer, number)):
            return False
        del self._kept[layer][number]
        self._residency.evict((layer, number))
        return True
