"""What rank 0 sends to the other ranks before each sweep: the step, and the hidden states it starts from."""

from dataclasses import dataclass

import numpy as np

from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.tags import Tag
from tpi_mpi.comm.world import ROOT

_STOP, _FORWARD = 0, 1
_HEADER_BYTES = 3 * 8


@dataclass(frozen=True)
class Step:
    """One sweep: ``count`` tokens, the first of them at position ``start``. It contains neither text nor token ids."""

    start: int
    count: int

    @property
    def length(self) -> int:
        """Positions of the sequence after this sweep."""
        return self.start + self.count


class Steps:
    """Takes steps from rank 0 to all other ranks, point to point.

    rank 0 ── header (operation, start, count), first hidden states ──▶ every other rank
           ── the remaining hidden states (rows, width) ──────────────▶ every other rank

    first_rows: rows of hidden states that travel with the header; a second message brings the others, if any.
    """

    def __init__(self, comm, width: int, first_rows: int):
        self._comm = comm
        self._others = range(1, comm.Get_size())
        self._message = np.empty(_HEADER_BYTES + 4 * first_rows * width, dtype=np.uint8)
        self._header = self._message[:_HEADER_BYTES].view(np.int64)
        self._first = self._message[_HEADER_BYTES:].view(np.float32).reshape(first_rows, width)

    def send(self, step: Step, hidden: np.ndarray) -> None:
        """On rank 0: sends a step. hidden: float32 (count, width), contiguous."""
        first, rest = hidden[: len(self._first)], hidden[len(self._first) :]
        self._first[: len(first)] = first
        self._header[:] = _FORWARD, step.start, step.count
        self._send([self._message[: _HEADER_BYTES + first.nbytes], *([rest] if len(rest) else [])])

    def stop(self) -> None:
        """On rank 0: tells the others that there are no more steps."""
        self._header[:] = _STOP, 0, 0
        self._send([self._message[:_HEADER_BYTES]])

    def receive(self) -> tuple[Step, np.ndarray] | None:
        """On the other ranks: the next step and its hidden states (count, width), or None when there are no more."""
        wait([self._comm.Irecv(self._message, ROOT, Tag.STEP)])
        operation, start, count = self._header.tolist()
        if operation == _STOP:
            return None
        hidden = np.empty((count, self._first.shape[1]), np.float32)
        first, rest = hidden[: len(self._first)], hidden[len(self._first) :]
        first[:] = self._first[: len(first)]
        if len(rest):
            wait([self._comm.Irecv(rest, ROOT, Tag.STEP)])
        return Step(start, count), hidden

    def _send(self, messages: list[np.ndarray]) -> None:
        wait([self._comm.Isend(message, rank, Tag.STEP) for message in messages for rank in self._others])
