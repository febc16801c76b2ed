"""One plan for the memory of all ranks: how many sequences there is room for, and which blocks stay beside them."""

from collections.abc import Callable, Mapping, Sequence

from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError
from tpi_mpi.engine.demand import Demand, best, sweep_seconds
from tpi_mpi.model.room import Room
from tpi_mpi.weights.budget import Plan

MakePlan = Callable[[Room], Plan]
"""Which blocks of this rank are pinned beside some room. Raises UserError if there is no memory for that."""


def agree_on_room(
    world: World, demand: Demand, choices: Sequence[int], hidden_size: int, blocks: Mapping[str, int], make: MakePlan
) -> tuple[Room, Plan]:
    """The same room on every rank, and each one's plan. Collective.

    choices: numbers of sequences to choose from. blocks: bytes of memory that each takes, by name.
    Raises Stopped if any rank's memory budget is too small.
    """
    rooms = {count: demand.room(count, hidden_size) for count in choices}
    gathered = world.gather([_seconds(blocks, room, make) for room in rooms.values()])
    room = rooms[world.broadcast(_chosen(choices, gathered) if gathered else None)]
    with world.agreed():
        plan = make(room)
    return room, plan


def _seconds(blocks: Mapping[str, int], room: Room, make: MakePlan) -> float | None:
    """About how long a sweep takes on this rank with room for some sequences; None if there is no memory for it."""
    try:
        pinned = make(room).pinned
    except UserError:
        return None
    streamed = sum(size for name, size in blocks.items() if name not in pinned)
    return sweep_seconds(room.sequences, sum(blocks.values()), streamed)


def _chosen(choices: Sequence[int], ranks: Sequence[Sequence[float | None]]) -> int:
    """The number of sequences, from the seconds of every rank for every choice."""
    every = {count: own for count, *own in zip(choices, *ranks, strict=True)}
    possible = {count: max(own) for count, own in every.items() if None not in own}
    return best(possible) if possible else min(choices)
