"""One plan for the memory of all ranks: how many sequences there is room for, and which blocks stay beside them."""

from collections.abc import Callable, Sequence

from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError
from tpi_mpi.engine.demand import best, sweep_seconds
from tpi_mpi.model.room import Room
from tpi_mpi.weights.budget import Plan
from tpi_mpi.weights.experts.sizes import ExpertSizes
from tpi_mpi.weights.slabs.slab import Slab

MakePlan = Callable[[Room], Plan]
"""Which blocks of this rank are pinned beside some room. Raises UserError if there is no memory for that."""


def agree_on_room(world: World, rooms: Sequence[Room], slab: Slab, make: MakePlan) -> tuple[Room, Plan]:
    """The same room on every rank, and each one's plan. Collective.

    rooms: to choose from. Of several with as many sequences, the largest whose pages take no weights' place is chosen.
    Raises Stopped if any rank's memory budget is too small.
    """
    gathered = world.gather([_seconds(slab, room, make) for room in rooms])
    room = rooms[world.broadcast(_chosen(rooms, gathered) if gathered else None)]
    with world.agreed():
        plan = make(room)
    return room, plan


def _seconds(slab: Slab, room: Room, make: MakePlan) -> float | None:
    """About how long a sweep takes on this rank with room for some sequences; None if there is no memory for it."""
    try:
        own = make(room)
    except UserError:
        return None
    blocks, experts = slab.resident, ExpertSizes.of(slab)
    swept, streamed = sum(blocks.values()), sum(size for name, size in blocks.items() if name not in own.pinned)
    if experts:
        used = experts.sweep_bytes(room.sequences)
        swept, streamed = swept + used, streamed + used * (1 - own.slots / experts.most)
    return sweep_seconds(room.sequences, swept, streamed)


def _chosen(rooms: Sequence[Room], ranks: Sequence[Sequence[float | None]]) -> int:
    """The index of a room, from the seconds of every rank for every room."""
    every = dict(enumerate(zip(*ranks, strict=True)))
    possible = {index: max(own) for index, own in every.items() if None not in own}
    if not possible:
        return min(every, key=lambda index: (rooms[index].sequences, rooms[index].pages))
    fastest: dict[int, float] = {}
    for index, seconds in possible.items():
        count = rooms[index].sequences
        fastest[count] = min(seconds, fastest.get(count, seconds))
    count = best(fastest)
    fitting = [
        index for index, seconds in possible.items() if (rooms[index].sequences, seconds) == (count, fastest[count])
    ]
    return max(fitting, key=lambda index: rooms[index].pages)
