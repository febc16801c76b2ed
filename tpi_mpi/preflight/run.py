"""One check of all machines: every rank examines its own, rank 0 compares them."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from tpi_mpi.comm.links import Link, probe_links
from tpi_mpi.comm.world import Stopped, World
from tpi_mpi.common.errors import UserError, say
from tpi_mpi.common.options.programs import CheckOptions
from tpi_mpi.engine.report import write_outputs
from tpi_mpi.measurement.matrices import Matrices
from tpi_mpi.measurement.performance_model import Machine, Work, predict, shards
from tpi_mpi.measurement.tables import check_table
from tpi_mpi.preflight.diagnosis import notes, problems
from tpi_mpi.preflight.rank_check import RankCheck
from tpi_mpi.preflight.target import Target


def check(world: World, target: Target, options: CheckOptions) -> None:
    """Checks all machines and prints the report. Raises Stopped, with status 1, on every rank if anything is wrong."""
    with world.doing(lambda: "being checked"), RankCheck(world, options, target) as own:
        lines = world.gather(own.report())
        links, sums = probe_links(world), own.sums()
    report = _report(own, lines, links, sums) if lines else None
    if report:
        _publish(options, report)
    if world.broadcast(bool(report and report["problems"])):
        raise Stopped(1)


def _report(own: RankCheck, ranks: list[dict], links: Sequence[Link], sums: dict[int, float]) -> dict:
    """On rank 0: the whole report, fit for JSON."""
    target, work = own.target, own.work(sums)
    for rank, link in zip(ranks[1:], links, strict=True):
        rank["link"] = {"latency_s": link.latency, "bandwidth": link.bandwidth}
    found = problems(ranks)
    return {
        "model": target.model,
        "dtype": target.dtype,
        "main_format": str(Matrices.of(own.slab.layers.values()).main_format),
        "hidden_size": target.config.hidden_size,
        "num_hidden_layers": target.config.num_hidden_layers,
        "world_size": len(ranks),
        "allreduce": own.options.machine.allreduce,
        "allreduce_s": {str(rows): round(seconds, 6) for rows, seconds in sums.items()},
        "work": asdict(work),
        "ranks": [{"link": None, **rank} for rank in ranks],
        "expected": _expected(target, ranks, work),
        "problems": found,
        "notes": notes(ranks),
    }


def _expected(target: Target, ranks: Sequence[dict], work: Work) -> dict[str, float] | None:
    """The seconds to expect on these machines; None if a rank cannot take part."""
    if not all(rank["rates"]["read"] for rank in ranks):
        return None
    machines = [Machine.of(rank) for rank in ranks]
    try:
        prediction = predict(shards(target.config, target.partition, target.formats, work), machines, work)
    except UserError:  # reported as the rank's own problem
        return None
    return {"ttft_s": round(prediction.ttft, 6), "tpot_s": round(prediction.tpot, 6)}


def _publish(options: CheckOptions, report: dict) -> None:
    sys.stderr.write("".join(f"{line}\n" for line in check_table(report)))
    for problem in report["problems"]:
        say(f"rank {problem['rank']} on {problem['host']}: {problem['message']}")
    for note in report["notes"]:
        say(f"note: {note}")
    print(json.dumps(report, indent=2), flush=True)
    write_outputs(options.machine, report, [])
