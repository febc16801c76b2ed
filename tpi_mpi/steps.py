"""What rank 0 tells the others before each sweep: a small header, and the hidden states to start from."""

from dataclasses import dataclass

import numpy as np
import torch

from tpi_mpi.parallel import ROOT
from tpi_mpi.waiting import wait

_TAG = 2
_STOP, _FORWARD = 0, 1


@dataclass(frozen=True)
class Step:
    """One sweep: ``count`` tokens at the positions from ``start`` on. No text and no token id is in it."""

    start: int
    count: int

    @property
    def length(self) -> int:
        """Positions of the text after this sweep."""
        return self.start + self.count


class Steps:
    """The steps' way from rank 0 to all others, point to point.

    rank 0 ── header (operation, start, count) ──▶ every other rank
           ── hidden states (count, width) ──────▶ every other rank, unless the operation is to stop
    """

    def __init__(self, comm, width: int):
        self._comm = comm
        self._width = width
        self._others = range(1, comm.Get_size())

    def send(self, step: Step, hidden: torch.Tensor) -> None:
        """From rank 0; hidden: (count, width) in float32."""
        self._send([np.array([_FORWARD, step.start, step.count]), hidden.numpy()])

    def stop(self) -> None:
        """From rank 0: there are no more steps."""
        self._send([np.array([_STOP, 0, 0])])

    def receive(self) -> tuple[Step, torch.Tensor] | None:
        """On the other ranks: the next step and its hidden states, or None when there are no more."""
        header = np.empty(3, dtype=np.int64)
        wait([self._comm.Irecv(header, ROOT, _TAG)])
        operation, start, count = header.tolist()
        if operation == _STOP:
            return None
        hidden = torch.empty(count, self._width)
        wait([self._comm.Irecv(hidden.numpy(), ROOT, _TAG)])
        return Step(start, count), hidden

    def _send(self, messages: list[np.ndarray]) -> None:
        wait([self._comm.Isend(message, rank, _TAG) for message in messages for rank in self._others])
