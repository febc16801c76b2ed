"""One check of all machines: every rank examines its own, rank 0 compares them."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from tpi_mpi.errors import UserError, say
from tpi_mpi.examination import Examination
from tpi_mpi.findings import notes, problems
from tpi_mpi.links import Link, probe_links
from tpi_mpi.options import CheckOptions
from tpi_mpi.parallel import Stopped, World
from tpi_mpi.prediction import Machine, Work, predict, shares
from tpi_mpi.report import write_outputs
from tpi_mpi.roll_call import roll_call
from tpi_mpi.subject import Subject


def check(world: World, subject: Subject, options: CheckOptions) -> None:
    """Prints the whole check. Raises Stopped, with status 1, on every rank, where something is wrong."""
    world.describe = lambda: "being examined"
    with Examination(world, options, subject) as examination:
        own = examination.report()
        links, sums = probe_links(world), examination.sums()
    ranks = world.gather(own)
    report = _report(examination, ranks, links, sums) if ranks else None
    if report:
        _publish(options, report)
    if world.broadcast(bool(report and report["problems"])):
        raise Stopped(1)


def _report(examination: Examination, ranks: list[dict], links: Sequence[Link], sums: dict[int, float]) -> dict:
    """On rank 0: everything, fit for JSON."""
    options, subject, work = examination.options, examination.subject, examination.work(sums)
    for rank, link in zip(ranks[1:], links, strict=True):
        rank["link"] = {"latency_s": link.latency, "bandwidth": link.bandwidth}
    found = problems(ranks)
    return {
        "model": subject.model,
        "dtype": subject.dtype,
        "hidden_size": subject.config.hidden_size,
        "num_hidden_layers": subject.config.num_hidden_layers,
        "world_size": len(ranks),
        "allreduce": options.machine.allreduce,
        "allreduce_s": {str(rows): round(seconds, 6) for rows, seconds in sums.items()},
        "work": asdict(work),
        "ranks": [{"link": None, **rank} for rank in ranks],
        "expected": _expected(subject, ranks, work),
        "problems": found,
        "notes": notes(ranks),
    }


def _expected(subject: Subject, ranks: Sequence[dict], work: Work) -> dict[str, float] | None:
    """What these slabs will take on these machines; None where a rank cannot take part."""
    if not all(rank["rates"]["read"] for rank in ranks):
        return None
    machines = [Machine.of(rank) for rank in ranks]
    try:
        prediction = predict(shares(subject.config, subject.partition, subject.dtype, machines, work), machines, work)
    except UserError:  # said as the rank's own problem
        return None
    return {"ttft_s": round(prediction.ttft, 6), "tpot_s": round(prediction.tpot, 6)}


def _publish(options: CheckOptions, report: dict) -> None:
    sys.stderr.write("".join(f"{line}\n" for line in roll_call(report)))
    for problem in report["problems"]:
        say(f"rank {problem['rank']} on {problem['host']}: {problem['message']}")
    for note in report["notes"]:
        say(f"note: {note}")
    print(json.dumps(report, indent=2), flush=True)
    write_outputs(options.machine, report, [])
