"""Times sweeps that check so many drafted tokens each, and prints what they take as JSON.

    mpirun -np 2 python jobs/comparison/replay.py SLABS --memory 1250MiB [--drafted 0 1 2 4 8 16] [--right 0.85]

The model may be a random one of any shape: first it says something, token by token; then it says the same again with
drafts of it, in which each token is right with the given chance if those before it are. What a real model's drafts
are worth is to be measured with one (speculation.py); here it counts how long a sweep of so many rows takes.

Cost: about twice as many sweeps as --tokens for every number of --drafted; the slabs are read from the disk.
"""

import argparse
import json
import random
import time
from pathlib import Path
from statistics import median

from tpi_mpi.cli.program import open_slab
from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.world import World, start_mpi
from tpi_mpi.common.options.machine import MachineOptions
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.common.units import parse_size
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.engine import Engine
from tpi_mpi.engine.request import Request
from tpi_mpi.engine.schedule.scheduler import Scheduler

PROMPT = tuple(range(100, 132))


class Replay:
    """Drafts what was said before, with some mistakes. Takes the place of the engine's own speculation.

    said: the tokens. count: of a draft. right: the chance of each.
    """

    said: tuple[int, ...] = ()
    count = 0

    def __init__(self, scheduler: Scheduler, right: float):
        self._scheduler, self._right, self._draw = scheduler, right, random.Random(0)

    def drafts(self, decoding):
        found = {}
        for sequence in decoding:
            count = min(self.count, self._scheduler.room_after(sequence), self._scheduler.drafted)
            known = self.said[sequence.new_tokens :][:count]
            found[sequence] = [id if self._draw.random() < self._right else id ^ 1 for id in known]
        return {sequence: draft for sequence, draft in found.items() if draft}

    def verified(self, sequence, count):
        """Nothing is learned."""

    def restarted(self, sequence):
        """Nothing is kept."""

    def ended(self, sequence):
        """Nothing is kept."""

    def swept(self, rows, prompt_rows, seconds, computing):
        """Nothing is learned."""


class Replayed(Engine):
    right = 1.0

    def _speculate(self, stack, scheduler, embedding, throughput):
        return Replay(scheduler, self.right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("slabs", type=Path)
    add("--memory", type=parse_size)
    add("--drafted", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16])
    add("--right", type=float, default=0.85)
    add("--tokens", type=int, default=24)
    options = parser.parse_args()
    with start_mpi() as world:
        machine = MachineOptions(memory=options.memory)
        with world.watched(machine.deadline):
            found = measured(world, options, machine)
    if found:
        print(json.dumps(found, indent=2))


def measured(world: World, options: argparse.Namespace, machine: MachineOptions) -> list[dict] | None:
    """What each number of drafted tokens takes, on rank 0; on all ranks together."""
    slab, cores = open_slab(world, options.slabs), Cores(world)
    request = Request(PROMPT, SamplingOptions(max_new_tokens=options.tokens))
    engine = Replayed(world, cores, slab, machine, Demand.of_one(request.length), shown=False)
    engine.right = options.right
    with engine:
        found = None
        if world.is_root:
            engine.leader.speculator.said, _ = said(engine, request)
            found = [figures(engine, request, count) for count in options.drafted]
        engine.follow_to_the_end()
        peaks = world.gather(engine.usage().peak_rss_bytes)
    return found and [*found, {"peak_rss_bytes": peaks}]


def figures(engine: Engine, request: Request, count: int) -> dict:
    """What drafts of so many tokens take. The first sweep, which computes the prompt, does not count."""
    replay = engine.leader.speculator
    replay.count = count
    tokens, seconds = said(engine, request)
    assert tokens == replay.said, "another text than without drafts"
    return {
        "drafted": count,
        "seconds_per_sweep": round(median(seconds), 4),
        "tokens_per_sweep": round((len(tokens) - 1) / len(seconds), 3),
        "seconds_per_token": round(sum(seconds) / (len(tokens) - 1), 4),
    }


def said(engine: Engine, request: Request) -> tuple[tuple[int, ...], list[float]]:
    """The tokens that continue a request, and the seconds of every sweep but the prompt's."""
    sequence, tokens, seconds = engine.leader.submit(request), [], []
    while not sequence.ended:
        began = time.perf_counter()
        tokens += [token.id for _, token in engine.leader.step()]
        seconds.append(time.perf_counter() - began)
    return tuple(tokens), seconds[1:]


if __name__ == "__main__":
    main()
