"""One measured run, on every rank: probes, a prompt, tokens, and the floor of both."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from statistics import mean

import numpy as np

from tpi_mpi import probes
from tpi_mpi.blocks import attention_name, feed_forward_name
from tpi_mpi.decoder import chunk_rows, chunk_sizes
from tpi_mpi.disks import drop_from_cache, slab_rate
from tpi_mpi.engine import Engine, Request
from tpi_mpi.errors import UserError
from tpi_mpi.floor import Floor, RankRates, prompt_floor, token_floor
from tpi_mpi.manifest import Manifest
from tpi_mpi.options import BenchOptions, SamplingOptions
from tpi_mpi.parallel import World
from tpi_mpi.processors import Processors
from tpi_mpi.report import Latencies, check_outputs, rank_report, rank_trace, run_report, write_outputs
from tpi_mpi.scoreboard import scoreboard
from tpi_mpi.slabs import Slab
from tpi_mpi.timeline import ACTIVITIES


def measure(world: World, slab: Slab, processors: Processors, options: BenchOptions, began: float) -> None:
    """Runs the whole benchmark and prints it. ``began``: when the program did, by ``time.perf_counter``."""
    with world.agreed():
        if world.is_root:  # whose files they are
            check_outputs(options.machine)
        prompt, tokens = _requests(options, slab)
        engine = Engine(world, processors, slab, options.machine, max(prompt.length, tokens.length))
    reads = [slab_rate(world, slab)]
    drop_from_cache(slab.path)
    latencies, decoded = Latencies(), Latencies()
    with engine:
        load = time.perf_counter() - began
        _phase(engine, prompt, latencies)
        decode = _phase(engine, tokens, decoded)
        own = rank_report(engine) | {"per_token": decode.per_token(tokens.sampling.max_new_tokens)}
        traces = world.gather(rank_trace(engine))
        allreduce = _allreduce_seconds(world, engine, options)
    reads.append(slab_rate(world, slab))
    rates = _rates(world, engine, reads)
    ranks = world.gather(own | {"rates": asdict(rates)})
    if world.is_root:
        latencies.later = decoded.later
        run = run_report(engine, Manifest.load(options.slabs).model, options.machine, latencies, load, ranks)
        _publish(options, run | _floors(options, engine, ranks, allreduce), traces)


def _requests(options: BenchOptions, slab: Slab) -> tuple[Request, Request]:
    """A prompt of random tokens, and one of a single token that is continued. No token ends them."""
    context = slab.config.context_length
    for name, length in (("--prompt-tokens", options.prompt_tokens), ("--new-tokens", options.new_tokens + 1)):
        if length > context:
            raise UserError(f"{name} make a text of {length} tokens; the model's context is {context}")
    ids = np.random.default_rng(0).integers(slab.config.vocab_size, size=options.prompt_tokens)
    prompt = Request(tuple(map(int, ids)), SamplingOptions(max_new_tokens=1))
    return prompt, Request((0,), SamplingOptions(max_new_tokens=options.new_tokens + 1))


@dataclass(frozen=True)
class _Phase:
    """What one text took on this rank: seconds by activity, and bytes fetched."""

    seconds: dict[str, float]
    fetched: int

    def per_token(self, tokens: int) -> dict[str, float]:
        times = {f"{activity}_s": round(seconds / tokens, 6) for activity, seconds in self.seconds.items()}
        return times | {"bytes_fetched": round(self.fetched / tokens)}


def _phase(engine: Engine, request: Request, latencies: Latencies) -> _Phase:
    """All ranks generate one text together."""
    seconds, fetched = dict(engine.timeline.seconds), engine.window.bytes_fetched
    if engine.world.is_root:
        for _ in latencies.watch(engine.tokens(request)):
            pass
    engine.follow()
    spent = {activity: engine.timeline.seconds[activity] - seconds.get(activity, 0) for activity in ACTIVITIES}
    return _Phase(spent, engine.window.bytes_fetched - fetched)


def _rates(world: World, engine: Engine, reads: Sequence[float]) -> RankRates:
    slab, layer = engine.slab, (attention_name(0), feed_forward_name(0))
    elements = sum(prod(tensor.shape) for name in engine.blocks for tensor in slab.blocks[name].tensors)
    return RankRates(
        host=world.host,
        weights=sum(engine.blocks.values()),
        elements=elements,
        streamed=sum(nbytes for name, nbytes in engine.blocks.items() if name not in engine.plan.pinned),
        read=mean(reads),
        memory=probes.memory_rate(world),
        vector=probes.vector_rate(world, slab, layer),
        prompt=probes.prompt_rate(world, slab, layer, chunk_rows(slab.config.hidden_size)),
    )


def _allreduce_seconds(world: World, engine: Engine, options: BenchOptions) -> dict[int, float]:
    """Seconds of an allreduce, by rows: of a token, of a full chunk of the prompt, and of its last one."""
    rows, width = sorted({1, *_chunks(options, engine)}), engine.config.hidden_size
    return {count: probes.allreduce_seconds(world, engine.allreduce, count, width) for count in rows}


def _chunks(options: BenchOptions, engine: Engine) -> list[int]:
    return chunk_sizes(options.prompt_tokens, chunk_rows(engine.config.hidden_size), engine.overlap)


def _floors(options: BenchOptions, engine: Engine, ranks: Sequence[dict], allreduce: dict[int, float]) -> dict:
    """The floors, and how far the measured times are above them."""
    rates = [RankRates(**rank["rates"]) for rank in ranks]
    blocks = 2 * engine.config.num_hidden_layers - 1  # after the last one, no rank waits for the others
    chunks = _chunks(options, engine)
    adding, overlap = sum(allreduce[rows] for rows in chunks), engine.overlap and len(chunks) > 1
    floors = {
        "ttft": prompt_floor(rates, options.prompt_tokens, blocks - 1, adding, overlap),
        "tpot": token_floor(rates, blocks, allreduce[1]),
    }
    return {
        "prompt_tokens": options.prompt_tokens,
        "allreduce_s": {str(rows): round(seconds, 6) for rows, seconds in allreduce.items()},
        "floor": {name: _rounded(floor) for name, floor in floors.items()},
    }


def _rounded(floor: Floor) -> dict[str, float]:
    parts = {f"{name}_s": round(getattr(floor, name), 6) for name in ("read", "compute", "allreduce", "memory")}
    return {"total_s": round(floor.total, 6), **parts, "overlap": floor.overlap}


def _publish(options: BenchOptions, report: dict, traces: Sequence[dict]) -> None:
    ttft, tpot = report["ttft_s"], report["tpot_s"]["median"]
    report["ratio"] = {
        "ttft": round(ttft / report["floor"]["ttft"]["total_s"], 3),
        "tpot": round(tpot / report["floor"]["tpot"]["total_s"], 3),
    }
    sys.stderr.write("".join(f"{line}\n" for line in scoreboard(report)))
    print(json.dumps(report, indent=2), flush=True)
    write_outputs(options.machine, report, traces)
