"""Times every allreduce on these machines, beside the lower bound that their links set for a simple star.

    mpirun -np 4 --hostfile hosts python jobs/comparison/allreduces.py --kib 16,32,64

Standard output carries one JSON object per size, with the seconds of one sum: the median of several in a row, on the
slowest rank. The lower bound is that of a star which receives everything before it sends: two latencies, and
2 (size - 1) messages on rank 0's link.
Cost: some seconds. To time another algorithm of Open MPI, such as number 3, recursive doubling: mpirun
    --mca coll_tuned_use_dynamic_rules 1 --mca coll_tuned_allreduce_algorithm 3 ... --only mpi
"""

import argparse
import json

from tpi_mpi.comm.allreduce.algorithms import ALGORITHMS
from tpi_mpi.comm.allreduce.tuned import slowest
from tpi_mpi.comm.links import Link, probe_links
from tpi_mpi.comm.wire import wire
from tpi_mpi.comm.world import World, start_mpi
from tpi_mpi.common.options.machine import WIRES
from tpi_mpi.measurement.probes import allreduce_seconds


def measure(world: World, name: str, wire_name: str, kib: int) -> dict[str, float | str]:
    """Seconds of one sum of ``kib`` KiB and, for ``auto``, which exchange it chose; on all ranks together."""
    width = kib * 256
    allreduce = ALGORITHMS[name](world, wire(wire_name), width, 1)
    seconds = world.broadcast(world.gather(allreduce_seconds(world, allreduce, 1, width)))
    times = {"seconds": max(seconds)}
    if choice := allreduce.choice():
        times["chosen"] = choice["trials"][0]["chosen"]
    allreduce.free()
    return times


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times every allreduce on these machines.")
    names = lambda text: text.split(",")  # noqa: E731
    parser.add_argument("--kib", type=lambda text: [int(part) for part in text.split(",")], default=[16, 32, 64])
    parser.add_argument("--only", type=names, default=list(ALGORITHMS), help="names of allreduces (default: all)")
    parser.add_argument("--wire", choices=WIRES, default="float32")
    parser.add_argument("--link", metavar="MS,MBIT/S", help="latency and rate of the links (default: measured)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    with start_mpi() as world:
        link = slowest(probe_links(world))
        if options.link:
            milliseconds, megabits = map(float, options.link.split(","))
            link = Link(milliseconds / 1e3, megabits * 1e6 / 8)
        for kib in options.kib:
            bound = 2 * link.latency + 2 * (world.size - 1) * kib * 1024 / link.bandwidth
            times = {name: measure(world, name, options.wire, kib) for name in options.only}
            if world.is_root:
                print(json.dumps({"ranks": world.size, "kib": kib, "lower_bound": bound, "times": times}), flush=True)


if __name__ == "__main__":
    main()
