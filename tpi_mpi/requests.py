"""Persistent MPI requests, built once for each number of rows and used again for every message of that shape."""

from collections.abc import Callable, Sequence

import torch

from tpi_mpi.waiting import wait

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
    for request in requests:
        request.Start()


def add_up(total: torch.Tensor, addends: Sequence[torch.Tensor], receives: Sequence) -> torch.Tensor:
    """Adds the ranks' addends up in rank order, which makes the sum bitwise the same wherever it is done.

    receives: the request that each arrives by, or None where it is this rank's own.
    """
    for rank, (addend, receive) in enumerate(zip(addends, receives, strict=True)):
        if receive is not None:
            wait([receive])
        (total.add_ if rank else total.copy_)(addend)
    return total


def with_own(receives: Sequence, rank: int) -> list:
    """Receives in the order of the other ranks, with None in this rank's place."""
    return [*receives[:rank], None, *receives[rank:]]


def others(comm) -> list[int]:
    """All other ranks, each rank beginning with the one after it: messages sent in this order meet no queue."""
    rank, size = comm.Get_rank(), comm.Get_size()
    return [(rank + step) % size for step in range(1, size)]


def _free(lists: tuple[list, ...]) -> None:
    for requests in lists:
        for request in requests:
            request.Free()
