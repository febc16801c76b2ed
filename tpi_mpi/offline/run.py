"""One run of generate, on every rank: slab, batch, engine, report."""

import os
import sys
import time
from dataclasses import replace

from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.allreduce.tuned import describe
from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import say
from tpi_mpi.common.options.programs import GenerateOptions
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.engine import Engine
from tpi_mpi.engine.report import Latencies, check_outputs, rank_trace, run_report, summary, write_outputs
from tpi_mpi.offline.batch import Batch
from tpi_mpi.weights.slabs.directory import Manifest
from tpi_mpi.weights.slabs.slab import Slab


def generate(world: World, slab: Slab, cores: Cores, options: GenerateOptions, began: float) -> None:
    """Generates everything that the options ask for; on all ranks together.

    began: when the program was started, by ``time.perf_counter``.
    """
    with world.agreed():
        batch = _batch(options, slab) if world.is_root else None
    demand = Demand(*world.broadcast(_demand(batch) if batch else None))
    machine = replace(options.machine, grammar=batch is not None and batch.survey.schemas)
    with world.agreed():
        engine = Engine(world, cores, slab, machine, demand, shown=options.prompt is not None)
    _advise(world, cores)
    latencies = Latencies()
    with engine:
        choice = engine.settings().allreduce_choice
        if choice and world.is_root:
            say(describe(choice))
        _tell_what_stays(world, engine)
        load = time.perf_counter() - began
        if batch:
            _lead(batch, engine, latencies)
        engine.follow()
        _report(world, options, engine, latencies, load)


def _tell_what_stays(world: World, engine: Engine) -> None:
    """Says how much of a mixture of experts stays in memory, on the rank where that is least."""
    if not engine.experts:
        return
    gathered = world.gather((engine.experts.usage().kept, world.rank, len(engine.plan.pinned)))
    if gathered:
        kept, rank, pinned = min(gathered)
        slab, everything = engine.slab, engine.experts.usage().all
        where = f" on rank {rank}, which keeps the fewest" if world.size > 1 else ""
        blocks = f", and {pinned} of the blocks that every token needs" if pinned < len(slab.layers) else ""
        a_layer = f"{kept // len(slab.experts)} of {slab.config.experts.count} a layer"
        say(f"{kept} of {everything} experts ({a_layer}) stay in memory{where}{blocks}")


def _batch(options: GenerateOptions, slab: Slab) -> Batch:
    """On rank 0: the requests. What would otherwise fail only at the end of a long run fails here."""
    check_outputs(options.machine)
    return Batch(options, slab.config)


def _demand(batch: Batch) -> tuple[int, int, int, int | None]:
    survey = batch.survey
    return survey.longest, survey.requests, survey.positions, survey.top


def _advise(world: World, cores: Cores) -> None:
    """Says so if mpirun's binding leaves cores idle."""
    confined = world.gather(f"rank {world.rank} on {world.host}" if cores.confined else None)
    if confined and any(confined):
        first = next(filter(None, confined))
        say(f"mpirun binds {first} to fewer cores than its share; add --bind-to none for a faster run")


def _lead(batch: Batch, engine: Engine, latencies: Latencies) -> None:
    """On rank 0: generates all that is asked for."""
    survey = batch.survey
    if survey.answered:
        say(f"{survey.answered} of {survey.prompts} prompts are already in the output file")
    if survey.mistakes:
        say(f"{survey.mistakes} of {survey.prompts} prompts cannot be done; their records say why")
    try:
        with batch:
            batch.answer(engine.leader, latencies)
    except BrokenPipeError:  # whoever was reading standard output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(world: World, options: GenerateOptions, engine: Engine, latencies: Latencies, load: float) -> None:
    usage = engine.usage()
    ranks = world.gather(usage.to_json())
    traces = world.gather(rank_trace(usage, engine.trace))
    if not world.is_root:
        return
    throughput = engine.leader.throughput
    report = run_report(Manifest.load(options.slabs).model, engine.settings(), latencies, throughput, load, ranks)
    say(summary(report))
    write_outputs(options.machine, report, traces)
