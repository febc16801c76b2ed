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
from tpi_mpi.weights.slabs.slab import Slab

# Of the guesses, how many must have been right for more to be worth while, once so many have been tried.
_TRUSTED, _TRIED = 0.6, 200


class ExpertCache:
    """Delivers the experts that routers ask for, and decides which of them stay.

    shares: by layer, how many experts stay. counts: how often what was wanted was there.
    """

    def __init__(self, slab: Slab, residency: Residency, shares: Mapping[int, int], trace: Trace):
        self._slab, self._residency, self._trace = slab, residency, trace
        self.shares = shares
        self._kept: dict[int, dict[int, None]] = {layer: {} for layer in shares}  # the least recently used first
        self._guesses: set[Expert] = set()
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
        kept = self._kept[layer]
        self._settle_guesses(layer, wanted)
        missing = [number for number in wanted if number not in kept]
        coming = [number for number in wanted if number in kept and self._residency.hurry((layer, number))]
        self._count(layer, wanted, [*missing, *coming])
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
        """Whether reading what a layer may want next promises to save time: not if the disk is busy, or if most
        guesses so far were wrong.
        """
        counts = self.counts
        trusted = counts.guessed_right >= _TRUSTED * (counts.guessed - _TRIED)
        return trusted and self.shares[layer] < len(self._slab.experts[layer]) and self._residency.idle

    def guess(self, layer: int, numbers: Iterable[int]) -> None:
        """Begins to read what the layer whose turn is next may want, as far as there are free slots."""
        kept = self._kept[layer]
        new = [number for number in numbers if number not in kept][: self._residency.free]
        self._guesses = {(layer, number) for number in new}
        self._residency.request([(layer, number) for number in new], later=True)
        self._kept[layer] = dict.fromkeys(new) | kept  # the first to go, unless they are used
        self.counts.guessed += len(new)

    def _settle_guesses(self, layer: int, wanted: Iterable[int]) -> None:
        """The wrong guesses need not be read, if that has not begun."""
        if not self._guesses:
            return
        right = self._guesses.intersection((layer, number) for number in wanted)
        self.counts.guessed_right += len(right)
        withdrawn = self._residency.withdraw(self._guesses - right)
        for layer, number in withdrawn:
            del self._kept[layer][number]
        for layer, number in self._guesses.difference(right, withdrawn):
            self.counts.bytes_wasted += self._slab.experts[layer].record(number).nbytes
        self._guesses = set()

    def _count(self, layer: int, wanted: Sequence[int], missed: Sequence[int]) -> None:
        own, counts = self._slab.experts[layer], self.counts
        counts.wanted += len(wanted)
        counts.missed += len(missed)
        counts.bytes_wanted += sum(own.record(number).nbytes for number in wanted)
        counts.bytes_missed += sum(own.record(number).nbytes for number in missed)
        self._trace.experts(layer, len(wanted), len(missed))

    def _make_room(self, layer: int, needed: Collection[int]) -> bool:
        """Frees a slot if there is none; returns whether there is one.

        That of one of the layer's own experts, but not of the needed ones; or else of what other layers have beyond
        their shares, because it was guessed and not wanted.
        """
        if self._residency.free:
            return True
        if any(self._give_up(layer, number) for number in list(self._kept[layer]) if number not in needed):
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
