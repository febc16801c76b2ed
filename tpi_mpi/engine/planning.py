"""One plan for the memory of all ranks: how many sequences there is room for, and which blocks stay beside them."""

from collections.abc import Callable, Mapping, Sequence

from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError
from tpi_mpi.engine.demand import best, sweep_seconds
from tpi_mpi.model.room import Room
from tpi_mpi.weights.budget import Plan
from tpi_mpi.weights.experts.sizes import ExpertSizes
from tpi_mpi.weights.slabs.slab import Slab

MakePlan = Callable[[Room], Plan]
"""Which blocks of this rank are pinned beside some room. Raises UserError if there is no memory for that."""


def agree_on_room(world: World, rooms: Mapping[int, Room], slab: Slab, make: MakePlan) -> tuple[Room, Plan]:
    """The same room on every rank, and each one's plan. Collective.

    rooms: to choose from, by their numbers of sequences.
    Raises Stopped if any rank's memory budget is too small.
    """
    gathered = world.gather([_seconds(slab, room, make) for room in rooms.values()])
    room = rooms[world.broadcast(_chosen(list(rooms), gathered) if gathered else None)]
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


def _chosen(choices: Sequence[int], ranks: Sequence[Sequence[float | None]]) -> int:
    """The number of sequences, from the seconds of every rank for every choice."""
    every = {count: own for count, *own in zip(choices, *ranks, strict=True)}
    possible = {count: max(own) for count, own in every.items() if None not in own}
    return best(possible) if possible else min(choices)
