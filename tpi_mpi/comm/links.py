"""The links between rank 0 and all other ranks: how long a message is on its way, and how many bytes follow it.

Pings of all ranks at once, rank k timing its own; then one link after the other, both ways at once:

rank k ── ping ──▶ rank 0              rank 0 ── go ──▶ rank k
rank k ◀── pong ── rank 0              rank 0 ◀══ messages in a row ══▶ rank k, both timing their arrivals, and again
"""

import time
from array import array
from dataclasses import dataclass
from statistics import median

from tpi_mpi.comm.polling import wait
from tpi_mpi.comm.tags import Tag
from tpi_mpi.comm.world import ROOT, World

_PINGS = 10
# Small enough to be sent without asking first, and as many as show how fast they come once TCP has taken speed.
_MESSAGE_BYTES = 32 * 1024
_MESSAGES = 16
_HALF = _MESSAGES // 2
# A link that is faster than so many seconds is used more than once.
_STREAM_SECONDS = 0.05
# No clock tells less apart.
_INSTANT = 1e-9


@dataclass(frozen=True)
class Link:
    """latency: seconds that a small message is on its way. bandwidth: bytes a second, of the slower direction."""

    latency: float
    bandwidth: float


def probe_links(world: World) -> list[Link]:
    """The links of ranks 1, 2, ... to rank 0, known on all ranks afterwards; an empty list where there is one rank.

    Called by all ranks together, none of which may be computing. Takes some two thirds of a second for seven links
    of 5 ms and 100 Mbit/s.
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
    """Half the median time that rank 0 takes to answer. The first answer has a connection to wait for."""
    sent, taken = array("q", [world.rank]), []
    for _ in range(1 + _PINGS):
        answer = world.comm.Irecv(bytearray(sent.itemsize), ROOT, Tag.PONG)
        began = time.perf_counter()
        wait([world.comm.Isend(sent, ROOT, Tag.PING), answer])
        taken.append(time.perf_counter() - began)
    return median(taken[1:]) / 2


def _echo(world: World) -> None:
    """Rank 0's side: answers whoever pings, in the order in which they come."""
    sender = array("q", [0])
    for _ in range((1 + _PINGS) * (world.size - 1)):
        wait([world.comm.Irecv(sender, tag=Tag.PING)])  # of any rank
        wait([world.comm.Isend(sender, sender[0], Tag.PONG)])


def _rate(world: World, peer: int) -> float:
    """Bytes a second of a link: of its fastest stream, because what disturbs one nearly always makes it slower."""
    rates, deadline = [], time.perf_counter() + _STREAM_SECONDS
    while _turn(world, peer, not rates or time.perf_counter() < deadline):
        rates.append(_stream(world, peer))
    return max(rates)


def _turn(world: World, peer: int, more: bool) -> bool:
    """Rank 0 tells the peer whether it is that one's turn; both then know."""
    told = bytearray([more])
    wait([(world.comm.Isend if world.is_root else world.comm.Irecv)(told, peer, Tag.TURN)])
    return bool(told[0])


def _stream(world: World, peer: int) -> float:
    """Bytes a second that come from a peer while as many go to it, over half of the messages, whichever half.

    The upper quartile of these rates, for the same reason.
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
