"""What rank 0 sends to the other ranks before each sweep: the step, and the hidden states it starts from."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from enum import IntEnum

import numpy as np

from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.tags import Tag
from tpi_mpi.comm.world import ROOT
from tpi_mpi.kernels.kv_cache import pages_for
from tpi_mpi.model.room import Room

# Bytes of hidden states that travel in the same message as the header of a step, at most.
_WITH_HEADER = 512 * 1024
# Seconds that a rank without work sleeps, at most, before it looks for a step again.
_NAP = 5e-3


@dataclass(frozen=True)
class Segment:
    """Consecutive positions of one sequence that pass through the blocks in one sweep.

    slot: the place of the sequence among those that are under way. start, count: its positions.
    length: positions of the sequence so far, including all that are known but not computed yet.
    wanted: how many of these positions, the last ones, are needed beyond the keys and values that they leave.
    """

    slot: int
    start: int
    count: int
    length: int
    wanted: int


@dataclass(frozen=True)
class Assignment:
    """From now on, the ``place``-th page of a slot's sequence is this one."""

    slot: int
    place: int
    page: int


@dataclass(frozen=True)
class Copy:
    """Before anything is computed, a page is copied to another."""

    source: int
    target: int


@dataclass(frozen=True)
class Step:
    """One sweep. It contains neither text nor token ids.

    draft: whether it is one of the model that drafts, and not of the one that is asked.
    """

    segments: Sequence[Segment]
    assignments: Sequence[Assignment] = ()
    copies: Sequence[Copy] = ()
    draft: bool = False

    @property
    def rows(self) -> int:
        return sum(segment.count for segment in self.segments)

    @property
    def wanted(self) -> list[int]:
        """The rows that are wanted, in order."""
        found, first = [], 0
        for segment in self.segments:
            first += segment.count
            found += range(first - segment.wanted, first)
        return found


class Operation(IntEnum):
    """What a message says: a step follows; one of the model that drafts; no more for the moment; no more at all."""

    FORWARD = 1
    DRAFT = 2
    PAUSE = 3
    STOP = 4


_PARTS = Segment, Assignment, Copy
_SEGMENT, _ASSIGNMENT, _COPY = (len(fields(part)) for part in _PARTS)
_HEADER = 1 + len(_PARTS)


class Steps:
    """Takes steps from rank 0 to all other ranks, point to point.

    rank 0 ── header (operation, counts), segments, pages, first hidden states ──▶ every other rank
           ── the remaining hidden states (rows, width) ────────────────────────▶ every other rank

    All numbers of the step are int64. The hidden states that do not fit into the first message are a second one.
    """

    def __init__(self, comm, width: int, room: Room):
        self._comm = comm
        self._width = width
        self._others = range(1, comm.Get_size())
        most = _HEADER + room.sequences * (_SEGMENT + _COPY + _ASSIGNMENT * pages_for(room.longest))
        self._first_rows = max(1, min(room.rows, _WITH_HEADER // (4 * width)))
        self._message = np.empty(8 * most + 4 * self._first_rows * width, np.uint8)

    def send(self, step: Step, hidden: np.ndarray) -> None:
        """On rank 0: sends a step. hidden: float32 (rows, width), contiguous."""
        parts = step.segments, step.assignments, step.copies
        words = [Operation.DRAFT if step.draft else Operation.FORWARD, *map(len, parts), *_numbers(*parts)]
        first, rest = hidden[: self._first_rows], hidden[self._first_rows :]
        size = 8 * len(words)
        self._message[:size].view(np.int64)[:] = words
        self._message[size : size + first.nbytes].view(np.float32)[:] = first.reshape(-1)
        self._send([self._message[: size + first.nbytes], *([rest] if len(rest) else [])])

    def pause(self) -> None:
        """On rank 0: tells the others that there are no more steps for the moment."""
        self._tell(Operation.PAUSE)

    def stop(self) -> None:
        """On rank 0: tells the others that there are no more steps at all."""
        self._tell(Operation.STOP)

    def receive(self) -> tuple[Step, np.ndarray] | Operation:
        """On the other ranks: the next step and its hidden states (rows, width), or that there are no more.

        While nothing comes, the rank sleeps longer and longer, up to some milliseconds at a time.
        """
        wait([self._comm.Irecv(self._message, ROOT, Tag.STEP)], _NAP)
        words = self._message[: len(self._message) // 8 * 8].view(np.int64)
        operation, *counts = words[:_HEADER].tolist()
        if operation not in (Operation.FORWARD, Operation.DRAFT):
            return Operation(operation)
        parts, at = [], _HEADER
        for kind, count in zip(_PARTS, counts, strict=True):
            size = len(fields(kind))
            numbers = words[at : at + count * size].reshape(count, size).tolist()
            parts.append([kind(*row) for row in numbers])
            at += count * size
        step = Step(*parts, draft=operation == Operation.DRAFT)
        return step, self._receive_states(step.rows, 8 * at)

    def _receive_states(self, rows: int, at: int) -> np.ndarray:
        """The hidden states, the first of which are in the message already, from a byte on."""
        hidden = np.empty((rows, self._width), np.float32)
        first, rest = hidden[: self._first_rows], hidden[self._first_rows :]
        first.reshape(-1)[:] = self._message[at : at + first.nbytes].view(np.float32)
        if len(rest):
            wait([self._comm.Irecv(rest, ROOT, Tag.STEP)])
        return hidden

    def _tell(self, operation: Operation) -> None:
        message = np.zeros(_HEADER, np.int64)
        message[0] = operation
        self._send([message])

    def _send(self, messages: list[np.ndarray]) -> None:
        wait([self._comm.Isend(message, rank, Tag.STEP) for message in messages for rank in self._others])


def _numbers(*parts: Iterable) -> list[int]:
    return [number for part in parts for one in part for number in astuple(one)]
