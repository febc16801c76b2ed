"""Signs of life between rank 0 and all others: a machine that is lost, or frozen, ends the job.

rank k ── "computing layers.3.attention" ──▶ rank 0       every second, by a thread of its own,
rank k ◀── "adding up layers.3.attention" ── rank 0       whatever the rank is busy with
"""

import threading
import time
from collections.abc import Callable, Sequence

from tpi_mpi.errors import say
from tpi_mpi.undertaker import bury_after

_TAG = 9
_BYTES = 128
# Of the time within which a job has to end, what may pass without a sign; the rest is for ending.
SILENCE = 0.75
# Seconds between two signs, and in parts of the silence that is allowed.
_INTERVAL, _PART = 1.0, 1 / 8
# MPI has so much of it to end the job everywhere, and at least a second.
_GRACE = 0.05


class Pulse:
    """Sends and expects signs of life while its with-block runs, and ends the job when a peer gives none.

    comm: used by no one else. hosts: of all ranks. timeout: seconds within which the job ends when a rank is lost.
    describe: says what this rank is doing.

    A rank that was stopped itself, or whose machine slept, does not hold that against the others.
    """

    def __init__(self, comm, hosts: Sequence[str], timeout: float, describe: Callable[[], str]):
        self._describe = describe
        self._silence = SILENCE * timeout
        self._grace = max(1.0, _GRACE * timeout)
        self._interval = min(_INTERVAL, _PART * self._silence)
        ranks = range(1, len(hosts)) if comm.Get_rank() == 0 else range(1)
        self._peers = [_Peer(comm, rank, hosts[rank]) for rank in ranks]
        self._comm = comm
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._over.wait(self._interval):
            now, doing = time.monotonic(), self._describe()
            asleep = now - last > self._silence / 2
            for peer in self._peers:
                peer.exchange(doing, now, asleep)
            silent = [peer for peer in self._peers if now - peer.heard > self._silence]
            if silent:
                self._end(silent, now)
            last = now
        for peer in self._peers:
            peer.close()

    def _end(self, silent: Sequence["_Peer"], now: float) -> None:
        for peer in silent:
            say(
                f"rank {peer.rank} on {peer.host} has given no sign of life for {now - peer.heard:.0f} s; "
                f"when last heard of, it was {peer.doing}"
            )
        bury_after(self._grace)
        self._comm.Abort(1)


class _Peer:
    """A rank that signs are exchanged with. heard: when it last gave one. doing: what it then was doing."""

    def __init__(self, comm, rank: int, host: str):
        self.rank, self.host = rank, host
        self.heard, self.doing = time.monotonic(), "starting"
        self._arriving, self._leaving = bytearray(_BYTES), bytearray(_BYTES)
        self._receive = comm.Irecv(self._arriving, rank, _TAG)
        self._send = None
        self._comm = comm

    def exchange(self, doing: str, now: float, asleep: bool) -> None:
        """Takes what has come, and sends a sign unless the last one is still on its way."""
        while self._receive.Test():
            self.heard, self.doing = now, self._arriving.rstrip(b"\0").decode(errors="replace")
            self._receive = self._comm.Irecv(self._arriving, self.rank, _TAG)
        if asleep:
            self.heard = now
        if self._send is None or self._send.Test():
            self._leaving[:] = doing.encode()[:_BYTES].ljust(_BYTES, b"\0")
            self._send = self._comm.Isend(self._leaving, self.rank, _TAG)

    def close(self) -> None:
        self._receive.Cancel()
        self._receive.Wait()
        if self._send is not None:
            self._send.Free()
