"""Heartbeats between rank 0 and every other rank: a lost or frozen machine ends the job.

rank k ── "computing layers.3.attention" ──▶ rank 0       every second, from a separate thread,
rank k ◀── "adding up layers.3.attention" ── rank 0       whatever the rank is doing
"""

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress

from tpi_mpi.comm.abort import kill_after
from tpi_mpi.comm.tags import Tag
from tpi_mpi.common.deadline import Deadline
from tpi_mpi.common.errors import say

_BYTES = 128
# Seconds between heartbeats: at most _INTERVAL, and at most _PART of the silence that is allowed.
_INTERVAL, _PART = 1.0, 1 / 8


class Heartbeat:
    """Sends and expects heartbeats inside its with-block, and ends the job when a peer falls silent.

    comm: a communicator used for nothing else. hosts: host names in rank order. deadline: that of the job.
    describe: returns what this rank is doing, as text.

    If this rank itself was stopped or its machine slept, the others' silence meanwhile does not count. If the heartbeat
    itself fails, so does the job, because a lost machine would then go unnoticed.
    """

    def __init__(self, comm, hosts: Sequence[str], deadline: Deadline, describe: Callable[[], str]):
        self._describe = describe
        self._deadline = deadline
        self._interval = min(_INTERVAL, _PART * deadline.silence)
        ranks = range(1, len(hosts)) if comm.Get_rank() == 0 else range(1)
        self._peers = [_Peer(comm, rank, hosts[rank]) for rank in ranks]
        self._comm = comm
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._beat()
        except BaseException as error:
            traceback.print_exception(error)
            say(f"rank {self._comm.Get_rank()}: the heartbeat failed ({type(error).__name__}: {error})")
            self._abort()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._over.wait(self._interval):
            now, doing = time.monotonic(), self._describe()
            asleep = now - last > self._deadline.silence / 2
            for peer in self._peers:
                peer.exchange(doing, now, asleep)
            silent = [peer for peer in self._peers if now - peer.heard > self._deadline.silence]
            if silent:
                self._end(silent, now)
            last = now
        for peer in self._peers:
            peer.close()

    def _end(self, silent: Sequence["_Peer"], now: float) -> None:
        for peer in silent:
            say(
                f"rank {peer.rank} on {peer.host} has given no sign of life for {now - peer.heard:.0f} s; "
                f"when last heard from, it was {peer.doing}"
            )
        self._abort()

    def _abort(self) -> None:
        with suppress(OSError):  # a machine without memory for another process can still end this one
            kill_after(self._deadline.grace)
        self._comm.Abort(1)


class _Peer:
    """A rank to exchange heartbeats with. heard: time of its latest heartbeat. doing: what it said it was doing."""

    def __init__(self, comm, rank: int, host: str):
        self.rank, self.host = rank, host
        self.heard, self.doing = time.monotonic(), "starting"
        self._arriving, self._leaving = bytearray(_BYTES), bytearray(_BYTES)
        self._receive = comm.Irecv(self._arriving, rank, Tag.HEARTBEAT)
        self._send = None
        self._comm = comm

    def exchange(self, doing: str, now: float, asleep: bool) -> None:
        """Receives what has arrived, and sends a heartbeat unless the previous one is still in flight."""
        while self._receive.Test():
            self.heard, self.doing = now, self._arriving.rstrip(b"\0").decode(errors="replace")
            self._receive = self._comm.Irecv(self._arriving, self.rank, Tag.HEARTBEAT)
        if asleep:
            self.heard = now
        if self._send is None or self._send.Test():
            self._leaving[:] = doing.encode()[:_BYTES].ljust(_BYTES, b"\0")
            self._send = self._comm.Isend(self._leaving, self.rank, Tag.HEARTBEAT)

    def close(self) -> None:
        self._receive.Cancel()
        self._receive.Wait()
        if self._send is not None:
            self._send.Free()
