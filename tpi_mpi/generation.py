"""One run of generate, on every rank: slab, job, engine, report."""

import os
import sys
import time

from tpi_mpi.auto import describe
from tpi_mpi.engine import Engine
from tpi_mpi.errors import say
from tpi_mpi.job import Job
from tpi_mpi.manifest import Manifest
from tpi_mpi.options import GenerateOptions
from tpi_mpi.parallel import World
from tpi_mpi.processors import Processors
from tpi_mpi.report import Latencies, check_outputs, rank_report, rank_trace, run_report, summary, write_outputs
from tpi_mpi.slabs import Slab


def generate(world: World, slab: Slab, processors: Processors, options: GenerateOptions, began: float) -> None:
    """Generates every text the options ask for. ``began``: when the program did, by ``time.perf_counter``."""
    with world.agreed():
        job = _job(options, slab) if world.is_root else None
    capacity = world.broadcast(job.capacity if job else None)
    with world.agreed():
        engine = Engine(world, processors, slab, options.machine, capacity)
    _advise(world, processors)
    latencies = Latencies()
    with engine:
        choice = engine.allreduce.choice()
        if choice and world.is_root:
            say(describe(choice))
        load = time.perf_counter() - began
        if job:
            _lead(job, engine, latencies)
        engine.follow()
        _report(world, options, engine, latencies, load)


def _job(options: GenerateOptions, slab: Slab) -> Job:
    """On rank 0: the texts to continue. What would fail only at the end of a long run is found here."""
    check_outputs(options.machine)
    return Job(options, slab.config)


def _advise(world: World, processors: Processors) -> None:
    """Says where mpirun's binding leaves processors idle."""
    confined = world.gather(f"rank {world.rank} on {world.host}" if processors.confined else None)
    if confined and any(confined):
        first = next(filter(None, confined))
        say(f"mpirun binds {first} to fewer processors than are its share; add --bind-to none for a faster run")


def _lead(job: Job, engine: Engine, latencies: Latencies) -> None:
    """On rank 0: one text after the other."""
    if job.skipped:
        say(f"{job.skipped} of {job.skipped + len(job.texts)} prompts are already in the output file")
    try:
        with job:
            for text in job.progress():
                job.write(text, latencies.watch(engine.tokens(text.request)))
    except BrokenPipeError:  # whoever read standard output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(world: World, options: GenerateOptions, engine: Engine, latencies: Latencies, load: float) -> None:
    ranks = world.gather(rank_report(engine))
    traces = world.gather(rank_trace(engine))
    if not world.is_root:
        return
    report = run_report(engine, Manifest.load(options.slabs).model, options.machine, latencies, load, ranks)
    say(summary(report))
    write_outputs(options.machine, report, traces)
