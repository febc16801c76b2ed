"""What a memory budget leaves for weights: which blocks are pinned, the window for the rest, the slots for experts."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.units import MIB, format_size
from tpi_mpi.weights.experts.sizes import ExpertSizes

# The fraction of bytes to pin is searched in this many steps.
_STEPS = 512
# The memory of libraries varies by up to this much between runs; the budget that one run advises must work in the next.
_VARIATION = 8 * MIB


@dataclass(frozen=True)
class Plan:
    """Which blocks are pinned, and the bounds of the window that the others stream through.

    pinned: names of blocks. capacity: bytes in the window at once, the block in use included.
    depth: the most blocks in the window at once; None for no limit.
    budget: peak resident bytes that the plan was made for; None if it was made for a window alone.
    slots: experts in memory at once.
    """

    pinned: Set[str]
    capacity: int
    depth: int | None = None
    budget: int | None = None
    slots: int = 0

    def window_blocks(self, blocks: Mapping[str, int]) -> int:
        """The number of blocks that can be in the window at once. blocks: bytes of each block, by name."""
        sizes = [nbytes for name, nbytes in blocks.items() if name not in self.pinned]
        return (self.depth or -(-self.capacity // max(sizes))) if sizes else 0


def plan_window(blocks: Mapping[str, int], depth: int, experts: ExpertSizes | None = None) -> Plan:
    """Pins nothing: every block streams through a window of ``depth`` blocks, whatever memory they take."""
    capacity = window_size(list(blocks.values()), frozenset(), depth)
    return Plan(frozenset(), capacity, depth, slots=experts.good if experts else 0)


def plan(
    blocks: Mapping[str, int], budget: int, fixed: int, depth: int | None = None, experts: ExpertSizes | None = None
) -> Plan:
    """Divides a budget: pins as many bytes as fit, spread over the sweep, and streams the rest.

    Every token needs all blocks but only some experts. So blocks come first, and what they leave is for experts; only
    the slots for what one row is given to come before blocks that would stay.

    blocks: bytes of each block by name, in the order of use.
    budget: peak resident bytes the process may reach. fixed: the bytes of it taken by everything but weights.
    depth: blocks in the window; None for enough bytes to fetch ahead of use, or what the budget allows if that is less.
    Raises UserError, with the smallest budget that works, if not even the window fits.
    """
    if experts is None:
        return _plan_blocks(blocks, budget, fixed, depth)
    spare = budget - fixed - sum(blocks.values())
    if spare >= experts.good * experts.size:
        return Plan(frozenset(blocks), 0, depth, budget, min(experts.most, spare // experts.size))
    return _plan_with_slots(blocks, budget, fixed, depth, experts)


def _plan_with_slots(
    blocks: Mapping[str, int], budget: int, fixed: int, depth: int | None, experts: ExpertSizes
) -> Plan:
    """Where not all blocks fit: with slots for what a row needs, or at least for what nothing works without."""
    for slots in (experts.good, experts.least):
        try:
            return replace(_plan_blocks(blocks, budget, fixed + slots * experts.size, depth), slots=slots)
        except UserError as error:
            refusal = error
    raise refusal


def _plan_blocks(blocks: Mapping[str, int], budget: int, fixed: int, depth: int | None) -> Plan:
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
    raise UserError(f"a memory budget of {format_size(budget)} is too small; give at least {advice}MiB")


def spread(sizes: Sequence[int], part: float) -> Set[int]:
    """Indices that are spread evenly and whose sizes add up to about the fraction ``part`` of the total.

    Each size adds that fraction of itself to the savings; an index is chosen once the savings cover its size.
    """
    chosen, saved = set(), 0.5  # half a byte, to absorb rounding errors
    for index, size in enumerate(sizes):
        saved += part * size
        if saved >= size:
            chosen.add(index)
            saved -= size
    return chosen


def window_size(sizes: Sequence[int], pinned: Set[int], depth: int | None) -> int:
    """Bytes of the window: the largest ``depth`` consecutive streamed blocks or, without a depth, twice the largest.

    With room for one block besides the one in use, the next one is fetched while that one is computed.
    """
    streamed = [size for index, size in enumerate(sizes) if index not in pinned]
    if depth is None:
        return min(sum(streamed), 2 * max(streamed, default=0))
    turns = (streamed + streamed)[: len(streamed) + depth - 1] if depth < len(streamed) else streamed
    return max((sum(turns[start : start + depth]) for start in range(len(streamed))), default=0)


def _needed(sizes: Sequence[int], pinned: Set[int], depth: int | None) -> int:
    return sum(sizes[index] for index in pinned) + window_size(sizes, pinned, depth)


def _top_up(sizes: Sequence[int], pinned: Set[int], depth: int | None, room: int) -> Set[int]:
    """Adds blocks that still fit, those farthest from any pinned one first."""
    pinned = set(pinned)
    while fitting := [
        index for index in range(len(sizes)) if index not in pinned and _needed(sizes, pinned | {index}, depth) <= room
    ]:
        pinned.add(max(fitting, key=lambda index: (_distance(index, pinned, len(sizes)), sizes[index])))
    return pinned


def _distance(index: int, pinned: Set[int], count: int) -> int:
    """The number of blocks to the nearest pinned one, around the cycle."""
    return min((min((index - other) % count, (other - index) % count) for other in pinned), default=count)
