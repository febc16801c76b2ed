"""One layer's turn: its missing experts are read while those that are there are computed."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence

from tpi_mpi.weights.experts.residency import Residency

MakeRoom = Callable[[int, Collection[int], bool], bool]
"""Frees a slot for a layer that needs some experts until they are computed; returns whether there is one.

The last argument says whether even what is worth keeping is given up for it.
"""


class Fetching:
    """Delivers the wanted experts of a layer once.

    missing: those that are not in memory. kept: the layer's experts that have slots, which the missing ones join.
    """

    def __init__(
        self,
        layer: int,
        wanted: Sequence[int],
        missing: Sequence[int],
        residency: Residency,
        make_room: MakeRoom,
        kept: dict[int, None],
    ):
        self._layer, self._residency, self._make_room, self._kept = layer, residency, make_room, kept
        self._left = dict.fromkeys(wanted)
        self._missing = deque(missing)

    def deliveries(self, in_order: bool) -> Iterator[Sequence[int]]:
        """All that are wanted, some at a time; in ascending order, if they must be."""
        while self._left:
            self._ask()
            some = self._first_ones() if in_order else self._arrived()
            yield some
            for number in some:
                del self._left[number]

    def _ask(self) -> None:
        """Has missing experts read, as many as there is room for."""
        while self._missing and self._make_room(self._layer, self._left, False):
            self._request(self._missing.popleft())
        if not any(number in self._kept for number in self._left):
            self._request_instead(self._missing.popleft())

    def _request(self, number: int) -> None:
        self._kept[number] = None
        self._residency.request([(self._layer, number)])

    def _arrived(self) -> Sequence[int]:
        """Those that are there, whichever they are; waits until there are some."""
        asked = [number for number in self._left if number in self._kept]
        self._residency.wait_for_any([(self._layer, number) for number in asked])
        return [number for number in asked if self._is_here(number)]

    def _first_ones(self) -> Sequence[int]:
        """The first of those that are left, and those after it as far as they are there; waits for the first."""
        first = next(iter(self._left))
        if first not in self._kept:
            self._request_instead(first)
        self._residency.wait_for_any([(self._layer, first)])
        some = []
        for number in self._left:
            if number not in self._kept or not self._is_here(number):
                break
            some.append(number)
        return some

    def _request_instead(self, first: int) -> None:
        """Requests an expert in the place of others whose turn comes later, or of guesses that are still arriving."""
        while not self._make_room(self._layer, (first,), True):
            self._residency.wait_for_a_read()
        self._request(first)
        self._missing = deque(number for number in self._left if number not in self._kept)

    def _is_here(self, number: int) -> bool:
        return self._residency.here((self._layer, number))
