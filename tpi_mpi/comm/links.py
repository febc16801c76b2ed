"""The links between rank 0 and every other rank: their latency and their bandwidth.

First all ranks ping at once, each timing its own pings; then one link at a time streams in both directions:

rank k ── ping ──▶ rank 0              rank 0 ── go ──▶ rank k
rank k ◀── pong ── rank 0              rank 0 ◀══ back-to-back messages ══▶ rank k, both timing arrivals; repeated
"""

import time
from array import array
from dataclasses import dataclass
from statistics import median

from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.tags import Tag
from tpi_mpi.comm.world import ROOT, World

_PINGS = 10
# Small enough to be sent eagerly, and enough of them to show the rate once TCP is up to speed.
_MESSAGE_BYTES = 32 * 1024
_MESSAGES = 16
_HALF = _MESSAGES // 2
# Streams over a link are repeated until this many seconds have passed.
_STREAM_SECONDS = 0.05
# Seconds below which a time is not resolved by any clock.
_INSTANT = 1e-9


@dataclass(frozen=True)
class Link:
    """latency: one-way time of a small message, in seconds. bandwidth: bytes per second in the slower direction."""

    latency: float
    bandwidth: float


def probe_links(world: World) -> list[Link]:
    """Measures the links of ranks 1, 2, ... to rank 0; every rank gets the same list, empty if there is one rank.

    Collective; no rank may be computing meanwhile. Takes about two thirds of a second for seven links of 5 ms and
    100 Mbit/s.
    """
    world.barrier()
    latency = _echo(world) if world.is_root else _ping(world)
    rates = {peer: _rate(world, peer) for peer in _peers(world)}
    ends = world.gather([latency, rates.get(ROOT)])
    pairs = [[ends[rank][0], min(rate, ends[rank][1])] for rank, rate in rates.items()] if ends else None
    return [Link(*pair) for pair in world.broadcast(pairs)]


def _peers(world: World) -> range:
    return range(1, world.size) if world.is_root else range(ROOT, ROOT + 1)


def _ping(world: World) -> float:
    """Half the median round trip to rank 0, in seconds, without the first, which includes connecting."""
    sent, taken = array("q", [world.rank]), []
    for _ in range(1 + _PINGS):
        answer = world.comm.Irecv(bytearray(sent.itemsize), ROOT, Tag.PONG)
        began = time.perf_counter()
        wait([world.comm.Isend(sent, ROOT, Tag.PING), answer])
        taken.append(time.perf_counter() - began)
    return median(taken[1:]) / 2


def _echo(world: World) -> None:
    """Rank 0's side: answers pings in the order in which they arrive."""
    sender = array("q", [0])
    for _ in range((1 + _PINGS) * (world.size - 1)):
        wait([world.comm.Irecv(sender, tag=Tag.PING)])  # from any rank
        wait([world.comm.Isend(sender, sender[0], Tag.PONG)])


def _rate(world: World, peer: int) -> float:
    """Bytes per second of a link's fastest stream: a disturbance nearly always makes a stream slower."""
    rates, deadline = [], time.perf_counter() + _STREAM_SECONDS
    while _turn(world, peer, not rates or time.perf_counter() < deadline):
        rates.append(_stream(world, peer))
    return max(rates)


def _turn(world: World, peer: int, more: bool) -> bool:
    """Whether to stream once more: rank 0 passes ``more``, and its peer receives the answer."""
    told = bytearray([more])
    wait([(world.comm.Isend if world.is_root else world.comm.Irecv)(told, peer, Tag.TURN)])
    return bool(told[0])


def _stream(world: World, peer: int) -> float:
    """Bytes per second received from a peer while as many are sent to it.

    The rate is taken over every run of half as many messages; the result is the upper quartile of these rates, because
    disturbances slow a stream down.
    """
    received, sent = bytearray(_MESSAGES * _MESSAGE_BYTES), bytes(_MESSAGE_BYTES)
    parts = (memoryview(received)[at : at + _MESSAGE_BYTES] for at in range(0, len(received), _MESSAGE_BYTES))
    receives = [world.comm.Irecv(part, peer, Tag.STREAM) for part in parts]
    sends = [world.comm.Isend(sent, peer, Tag.STREAM) for _ in receives]
    arrivals = [_arrival(receive) for receive in receives]
    wait(sends)
    gaps = [later - earlier for earlier, later in zip(arrivals[:_HALF], arrivals[_HALF:], strict=True)]
    return _HALF * _MESSAGE_BYTES / max(_INSTANT, sorted(gaps)[_HALF // 4])


def _arrival(receive) -> float:
    wait([receive])
    return time.perf_counter()
