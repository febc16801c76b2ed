"""Continues one prompt with this program, and prints what each of two parts of the continuation took as JSON.

    mpirun -np 2 python jobs/comparison/paced.py SLABS --prompt "[3, 4, 5]" --parts 64,64 [--memory 2048MiB]

The first part is for caches to fill; what counts is the second. Of each part: the seconds of every token, and for each
rank the bytes that it read, the seconds by activity, and how often its experts were in memory. The disk's rate is that
of a plain reader of all slabs at once, before and after. The most likely token is chosen, and none ends the sequence.
The run starts cold.

Cost: some ten seconds for the disk's rate, besides the tokens.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tpi_mpi.cli.program import open_slab
from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.world import World, start_mpi
from tpi_mpi.common.options.machine import MachineOptions
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.common.trace import ACTIVITIES
from tpi_mpi.common.units import parse_size
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.engine import Engine
from tpi_mpi.engine.report import RankUsage
from tpi_mpi.engine.request import Request
from tpi_mpi.engine.schedule.sequence import Sequence as Tokens
from tpi_mpi.measurement.disk_probe import Readable, drop_from_cache, read_rate
from tpi_mpi.weights.slabs.extents import PAGE
from tpi_mpi.weights.slabs.slab import Slab


def run(world: World, options: argparse.Namespace) -> dict | None:
    """What it all took, on rank 0; on all ranks together."""
    machine = MachineOptions(memory=options.memory, threads=options.threads, activations=options.activations, batch=1)
    with world.watched(machine.deadline):
        slab, cores = open_slab(world, options.slabs), Cores(world)
        rates = [] if options.no_disk else [disk_rate(world, slab, machine.deadline.silence)]
        drop_from_cache(slab.path)
        began = time.perf_counter()
        length = len(options.prompt) + sum(options.parts) + 1
        with Engine(world, cores, slab, machine, Demand.of_one(length), shown=False) as engine:
            load = time.perf_counter() - began
            parts, ids = continued(engine, options)
            usage = engine.usage()
            engine.follow_to_the_end()
        rates += [] if options.no_disk else [disk_rate(world, slab, machine.deadline.silence)]
    ranks = world.gather({"disk_rates": rates, "parts": parts, **usage.to_json()})
    return {"load_s": load, "token_ids": ids, "ranks": ranks} if world.is_root else None


def disk_rate(world: World, slab: Slab, patience: float) -> float:
    """Bytes per second at which a plain reader reads this rank's slab, while all others are read as well."""
    drop_from_cache(slab.path)
    descriptor = os.open(slab.path, os.O_RDONLY | os.O_DIRECT)
    try:
        whole = [(0, os.path.getsize(slab.path) // PAGE * PAGE)]
        return read_rate(world, Readable(slab.path, descriptor, whole), patience)
    finally:
        os.close(descriptor)


def continued(engine: Engine, options: argparse.Namespace) -> tuple[list[dict], list[int]]:
    """What each part took on this rank, after one for the prompt and the first token; and on rank 0 what was chosen."""
    sampling = SamplingOptions(max_new_tokens=sum(options.parts) + 1)
    request = Request(tuple(options.prompt), sampling)
    sequence = engine.leader.submit(request) if engine.world.is_root else None
    parts, ids, given = [], [], iter(options.given)
    for count in (1, *options.parts):
        before = counts(engine.usage())
        seconds = generate(engine, sequence, count, given, ids)
        parts.append({"seconds": seconds, **difference(counts(engine.usage()), before)})
    return parts, ids


def generate(engine: Engine, sequence: Tokens | None, count: int, given: Iterator[int], ids: list[int]) -> list[float]:
    """All ranks generate some tokens together; returns the seconds of each, on rank 0."""
    seconds = []
    for _ in range(count if engine.world.is_root else 0):
        token = None
        while token is None:  # of a long prompt, several sweeps
            token = next((token for _, token in engine.leader.step()), None)
        seconds.append(token.seconds)
        ids.append(token.id)
        sequence.ids[-1] = next(given, token.id)
    engine.follow()
    return seconds


def counts(usage: RankUsage) -> dict[str, float]:
    """What grows as a rank works."""
    experts = usage.to_json().get("experts") or {}
    own = {key: value for key, value in experts.items() if key not in ("kept", "all", "size", "hit_rate")}
    spent = {f"{name}_s": usage.seconds.get(name, 0.0) for name in ACTIVITIES}
    return {"bytes_fetched": usage.bytes_fetched, **spent, **own}


def difference(now: dict[str, float], then: dict[str, float]) -> dict[str, float]:
    return {key: value - then[key] for key, value in now.items()}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("slabs", type=Path)
    add("--prompt", metavar="IDS", type=json.loads, required=True, help="its token ids")
    add("--parts", type=lambda text: [int(part) for part in text.split(",")], default=[64, 64], help="tokens of each")
    add("--given", metavar="IDS", type=json.loads, default=[], help="token ids that follow, whatever is chosen")
    add("--memory", metavar="SIZE", type=parse_size, help="of each rank, as in 2048MiB (default: its share)")
    add("--threads", type=int, default=1, help="of each rank (default: 1)")
    add("--activations", choices=("int16", "int8"), default="int16")
    add("--no-disk", action="store_true", help="do not measure the disk")
    return parser.parse_args(given)


def main() -> None:
    options = arguments()
    with start_mpi() as world:
        took = run(world, options)
        if took:
            print(json.dumps(took), flush=True)


if __name__ == "__main__":
    main()
