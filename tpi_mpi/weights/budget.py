"""What a memory budget leaves for weights: which blocks stay, and how much of the others may be there at once."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.units import MIB, format_size

# How finely the part of the bytes that is pinned is searched for.
_STEPS = 512
# What libraries take differs by so much from run to run; the least budget named in one run should work in the next.
_VARIATION = 8 * MIB


@dataclass(frozen=True)
class Plan:
    """Which blocks stay in memory, and the bounds on those that do not: the window's.

    capacity: bytes of them in memory at once, the one in use included. depth: how many; None for any number.
    budget: peak resident bytes that the plan was made for; None where it was made for a window alone.
    """

    pinned: Set[str]
    capacity: int
    depth: int | None = None
    budget: int | None = None

    def window_blocks(self, blocks: Mapping[str, int]) -> int:
        """Blocks of which something can be in the window at once. blocks: bytes of each."""
        sizes = [nbytes for name, nbytes in blocks.items() if name not in self.pinned]
        return (self.depth or -(-self.capacity // max(sizes))) if sizes else 0


def plan_window(blocks: Mapping[str, int], depth: int) -> Plan:
    """Nothing stays: every block streams through a window of so many blocks, whatever memory they take."""
    return Plan(frozenset(), window_size(list(blocks.values()), frozenset(), depth), depth)


def plan(blocks: Mapping[str, int], budget: int, fixed: int, depth: int | None = None) -> Plan:
    """Divides a budget: as many bytes as fit are pinned, spread over the sweep; the rest streams.

    blocks: bytes of each block, in the order of use.
    budget: peak resident bytes the process may reach. fixed: what of it everything but the weights takes.
    depth: blocks of the window, or None for as many bytes as keep fetching ahead of use, or fewer where the budget
        has no room for them.
    Raises UserError, with the least budget that works, where not even the window fits.
    """
    names, sizes = list(blocks), list(blocks.values())
    room = budget - fixed
    choices = [spread(sizes, step / _STEPS) for step in range(_STEPS + 1)]
    fitting = [pinned for pinned in choices if _needed(sizes, pinned, depth) <= room]
    if fitting:
        most = max(fitting, key=lambda pinned: sum(sizes[index] for index in pinned))
        pinned = _top_up(sizes, most, depth, room)
        return Plan(frozenset(names[index] for index in pinned), window_size(sizes, pinned, depth), depth, budget)
    least = window_size(sizes, frozenset(), depth) if depth else max(sizes)
    if room >= least:
        return Plan(frozenset(), room, depth, budget)
    advice = -(-(fixed + least + _VARIATION) // MIB)
    raise UserError(f"a memory budget of {format_size(budget)} is too small; name at least {advice}MiB")


def spread(sizes: Sequence[int], part: float) -> Set[int]:
    """Indices whose sizes add up to about the given part of all, evenly over the sequence.

    That part of each is put by; when what was put by pays for one, that one is chosen.
    """
    chosen, saved = set(), 0.5  # half a byte against rounding
    for index, size in enumerate(sizes):
        saved += part * size
        if saved >= size:
            chosen.add(index)
            saved -= size
    return chosen


def window_size(sizes: Sequence[int], pinned: Set[int], depth: int | None) -> int:
    """Bytes of the window: of the largest ``depth`` consecutive blocks that stream, or of twice the largest.

    With room for one block besides the one in use, fetching goes on while that one computes.
    """
    streamed = [size for index, size in enumerate(sizes) if index not in pinned]
    if depth is None:
        return min(sum(streamed), 2 * max(streamed, default=0))
    turns = (streamed + streamed)[: len(streamed) + depth - 1] if depth < len(streamed) else streamed
    return max((sum(turns[start : start + depth]) for start in range(len(streamed))), default=0)


def _needed(sizes: Sequence[int], pinned: Set[int], depth: int | None) -> int:
    return sum(sizes[index] for index in pinned) + window_size(sizes, pinned, depth)


def _top_up(sizes: Sequence[int], pinned: Set[int], depth: int | None, room: int) -> Set[int]:
    """Adds blocks that still fit, those farthest from a pinned one first."""
    pinned = set(pinned)
    while fitting := [
        index for index in range(len(sizes)) if index not in pinned and _needed(sizes, pinned | {index}, depth) <= room
    ]:
        pinned.add(max(fitting, key=lambda index: (_distance(index, pinned, len(sizes)), sizes[index])))
    return pinned


def _distance(index: int, pinned: Set[int], count: int) -> int:
    """Blocks to the nearest pinned one, round the cycle."""
    return min((min((index - other) % count, (other - index) % count) for other in pinned), default=count)
