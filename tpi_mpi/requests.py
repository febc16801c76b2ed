"""Persistent MPI requests, built once for each number of rows and used again for every message of that shape."""

from collections.abc import Callable, Sequence

# One for a decoded token, one for a full chunk of a prompt, a few for the chunks that end prompts.
_MAX_SHAPES = 8


class Requests:
    """The requests of one algorithm by number of rows; those of the shapes that were built first are freed first.

    build: makes, for so many rows, lists of requests that are started and waited for together.
    """

    def __init__(self, build: Callable[[int], tuple[list, ...]]):
        self._build = build
        self._built: dict[int, tuple[list, ...]] = {}

    def of(self, rows: int) -> tuple[list, ...]:
        if rows not in self._built:
            if len(self._built) == _MAX_SHAPES:
                _free(self._built.pop(next(iter(self._built))))
            self._built[rows] = self._build(rows)
        return self._built[rows]

    def free(self) -> None:
        """None of them can be used afterwards."""
        while self._built:
            _free(self._built.popitem()[1])


def start(requests: Sequence) -> None:
    if requests:
        requests[0].Startall(requests)


def _free(lists: tuple[list, ...]) -> None:
    for requests in lists:
        for request in requests:
            request.Free()
