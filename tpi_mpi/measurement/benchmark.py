"""One measured run, on every rank: probes, a prompt, tokens, and a lower bound for each of the two."""

import json
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from statistics import mean

import numpy as np

from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.memory import peak_rss
from tpi_mpi.common.options.programs import BenchOptions
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.common.trace import ACTIVITIES
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.engine import Engine
from tpi_mpi.engine.report import (
    Latencies,
    RankUsage,
    Throughput,
    check_outputs,
    rank_trace,
    run_report,
    write_outputs,
)
from tpi_mpi.engine.request import Request
from tpi_mpi.engine.sweep.chunking import most_rows
from tpi_mpi.kernels.linear import open_linear
from tpi_mpi.measurement import probes
from tpi_mpi.measurement.disk_probe import drop_from_cache, slab_rate
from tpi_mpi.measurement.experts.figures import expert_figures
from tpi_mpi.measurement.experts.load import ExpertLoad
from tpi_mpi.measurement.format_probe import FormatProbe, formats_to_probe, probe_formats, rates_from
from tpi_mpi.measurement.lower_bound import RankLoad, prompt_bound, token_bound
from tpi_mpi.measurement.matrices import Matrices
from tpi_mpi.measurement.rates import Rates
from tpi_mpi.measurement.tables import bench_table
from tpi_mpi.weights.slabs.directory import Manifest
from tpi_mpi.weights.slabs.slab import Slab

# The numbers of rows with which products are measured, besides that of a whole chunk.
_DECODE_ROWS, _PROMPT_ROWS = (1, 2, 4, 8, 16), (64, 256)


def measure(world: World, slab: Slab, cores: Cores, options: BenchOptions, began: float) -> None:
    """Runs the whole benchmark and publishes its report; on all ranks together.

    began: when the program was started, by ``time.perf_counter``.
    Stops all ranks if the model's context is too short for what was asked.
    """
    with world.agreed():
        if world.is_root:  # the files are its own
            check_outputs(options.machine)
        prompt, tokens = _requests(options, slab)
        engine = Engine(world, cores, slab, options.machine, Demand.of_one(max(prompt.length, tokens.length)))
    silence = options.deadline.silence
    reads = [slab_rate(world, slab, silence)]
    drop_from_cache(slab.path)
    latencies, decoded = Latencies(), Latencies()
    with engine:
        load = time.perf_counter() - began
        _generate(engine, prompt, latencies)
        before = engine.usage()
        ids = _generate(engine, tokens, decoded)
        usage = engine.usage()
        plain, drafted = _speculated(engine, tokens, ids)
        usage = replace(usage, peak_rss_bytes=peak_rss())
        traces = world.gather(rank_trace(usage, engine.trace))
        allreduce = _allreduce_seconds(engine, options)
    with world.doing(lambda: "measuring its machine"):
        reads.append(slab_rate(world, slab, silence))
        formats = _probed(world, slab, cores, options)
    sweeps, rates = tokens.sampling.max_new_tokens, rates_from(mean(reads), formats, most_rows(slab.config.hidden_size))
    own = _load(slab, before, usage, sweeps, rates)
    ranks = world.gather(_rank_report(before, usage, sweeps, len(slab.experts), own))
    kernels = world.gather([probe.to_json() for probe in formats])
    if world.is_root:
        latencies.later = decoded.later
        report = run_report(Manifest.load(options.slabs).model, engine.settings(), latencies, plain, load, ranks)
        if drafted:
            report["with_drafts"] = drafted.to_json()
        report |= {"main_format": str(own.layers.main_format), "kernels": _by_rank(kernels)}
        _publish(options, report | _bounds(options, engine, ranks, allreduce), traces)


def _requests(options: BenchOptions, slab: Slab) -> tuple[Request, Request]:
    """A prompt of random tokens, and one of a single token that is continued. No end-of-text token ends either."""
    context = slab.config.context_length
    for name, length in (("--prompt-tokens", options.prompt_tokens), ("--new-tokens", options.new_tokens + 1)):
        if length > context:
            raise UserError(f"{name} makes a sequence of {length} tokens; the model's context is {context}")
    ids = np.random.default_rng(0).integers(slab.config.vocab_size, size=options.prompt_tokens)
    prompt = Request(tuple(map(int, ids)), SamplingOptions(max_new_tokens=1))
    return prompt, Request((0,), SamplingOptions(max_new_tokens=options.new_tokens + 1))


def _generate(engine: Engine, request: Request, latencies: Latencies, drafts: bool = False) -> list[int]:
    """All ranks generate one sequence together; returns its tokens on rank 0. drafts: whether any may be drafted."""
    ids = []
    if engine.world.is_root:
        engine.leader.speculator.active = drafts
        sequence = engine.leader.submit(request)
        while not sequence.ended:
            for _, token in engine.leader.step():
                latencies.add(token.seconds, first=not ids)
                ids.append(token.id)
    engine.follow()
    return ids


def _speculated(engine: Engine, request: Request, ids: Sequence[int]) -> tuple[Throughput | None, Throughput | None]:
    """On rank 0: what has been done so far, and what the same tokens take with drafts, if anything drafts."""
    before = deepcopy(engine.leader.throughput) if engine.world.is_root else None
    if not engine.room.drafted:
        return before, None
    same = _generate(engine, request, Latencies(), drafts=True)
    assert same == ids, "drafts have led to another text"
    return before, engine.leader.throughput.since(before) if before else None


def _probed(world: World, slab: Slab, cores: Cores, options: BenchOptions) -> list[FormatProbe]:
    """What this rank's threads make of each format of the slabs; on all ranks together."""
    prompt_rows = sorted({*_PROMPT_ROWS, most_rows(slab.config.hidden_size)})
    with open_linear(cores.threads(options.machine.threads), options.machine.planes) as linear:
        return probe_formats(world, cores, slab, linear, formats_to_probe(world, slab), _DECODE_ROWS, prompt_rows)


def _load(slab: Slab, before: RankUsage, usage: RankUsage, sweeps: int, rates: Rates) -> RankLoad:
    """What this rank has to do, and how fast it can. before: its usage after the prompt, ahead of so many sweeps."""
    layers = slab.layers
    head = [extent for name, extent in slab.sweep.items() if name not in layers]
    matrices = Matrices.of(layers.values()), Matrices.of(head)
    experts = None
    if usage.experts:
        prompt, both = before.experts.counts, usage.experts.counts
        experts = ExpertLoad.of(slab, prompt, both.since(prompt), sweeps)
    return RankLoad(usage.host, usage.swept_bytes, usage.streamed_bytes, *matrices, rates, experts)


def _by_rank(kernels: Sequence[Sequence[dict]]) -> list[dict]:
    """The entries of all ranks as one list, each with its rank's number."""
    return [{"rank": rank, **entry} for rank, own in enumerate(kernels) for entry in own]


def _rank_report(before: RankUsage, usage: RankUsage, tokens: int, layers: int, load: RankLoad) -> dict:
    """This rank's entry in the report.

    before: its usage before the first of the ``tokens`` that were timed. layers: that have experts.
    """
    spent = {name: usage.seconds.get(name, 0.0) - before.seconds.get(name, 0.0) for name in ACTIVITIES}
    per_token = {f"{name}_s": round(seconds / tokens, 6) for name, seconds in spent.items()}
    per_token["bytes_fetched"] = round((usage.bytes_fetched - before.bytes_fetched) / tokens)
    line = usage.to_json() | {"per_token": per_token, "rates": load.to_json()}
    if usage.experts:
        prompt, both = before.experts.counts, usage.experts.counts
        line["experts"]["prompt"] = expert_figures(prompt, 1, layers)
        line["experts"]["token"] = expert_figures(both.since(prompt), tokens, layers)
    return line


def _allreduce_seconds(engine: Engine, options: BenchOptions) -> dict[int, float]:
    """Seconds of an allreduce, by number of rows: of a token, of a full chunk of the prompt, and of its last chunk."""
    rows, width = sorted({1, *engine.chunking.sizes(options.prompt_tokens)}), engine.slab.config.hidden_size
    return {count: probes.allreduce_seconds(engine.world, engine.allreduce, count, width) for count in rows}


def _bounds(options: BenchOptions, engine: Engine, ranks: Sequence[dict], allreduce: dict[int, float]) -> dict:
    """The lower bounds, and what they were computed from besides the rates of the ranks."""
    loads = [RankLoad.from_json(rank["rates"]) for rank in ranks]
    blocks = 2 * engine.slab.config.num_hidden_layers - 1  # after the last one, no rank waits for the others
    adding = sum(allreduce[rows] for rows in engine.chunking.sizes(options.prompt_tokens))
    overlap = engine.chunking.overlaps(options.prompt_tokens)
    bounds = {
        "ttft": prompt_bound(loads, options.prompt_tokens, blocks - 1, adding, overlap),
        "tpot": token_bound(loads, blocks, allreduce[1]),
    }
    return {
        "prompt_tokens": options.prompt_tokens,
        "allreduce_s": {str(rows): round(seconds, 6) for rows, seconds in allreduce.items()},
        "lower_bound": {name: bound.to_json() for name, bound in bounds.items()},
    }


def _publish(options: BenchOptions, report: dict, traces: Sequence[dict]) -> None:
    measured = {"ttft": report["ttft_s"], "tpot": report["tpot_s"]["median"]}
    bounds = report["lower_bound"]
    report["ratio"] = {name: round(seconds / bounds[name]["total_s"], 3) for name, seconds in measured.items()}
    sys.stderr.write("".join(f"{line}\n" for line in bench_table(report)))
    print(json.dumps(report, indent=2), flush=True)
    write_outputs(options.machine, report, traces)
