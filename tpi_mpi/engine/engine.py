"""From requests to tokens: everything one rank needs to take part, set up and taken down again."""

import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack

import numpy as np

from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.allreduce.algorithms import ALGORITHMS
from tpi_mpi.comm.allreduce.star import StarReduce
from tpi_mpi.comm.wire import wire
from tpi_mpi.comm.world import World
from tpi_mpi.common.memory import default_budget, peak_rss, sampled, taken
from tpi_mpi.common.options import MachineOptions
from tpi_mpi.common.trace import Trace
from tpi_mpi.engine.chunking import Chunking
from tpi_mpi.engine.decoder import Decoder
from tpi_mpi.engine.progress import SweepProgress
from tpi_mpi.engine.report import RankUsage, RunSettings
from tpi_mpi.engine.request import Request, Token
from tpi_mpi.engine.sampling import Sampler, log_probability
from tpi_mpi.engine.step import Step, Steps
from tpi_mpi.engine.sums import Sums
from tpi_mpi.engine.warmup import compiled_once, warm_up
from tpi_mpi.kernels.linear import open_linear, prepare
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.weights.budget import Plan, plan, plan_window
from tpi_mpi.weights.embedding import Embedding
from tpi_mpi.weights.slab import Slab
from tpi_mpi.weights.window import SlidingWindow

# Rows of hidden states that travel in the same message as the header of a step: one token's, and a few more.
_ROWS_WITH_HEADER = 8


class Engine:
    """One rank's part of the generation.

    A context manager, entered and left by all ranks together. Rank 0 generates with :meth:`tokens` while the others
    :meth:`follow`; when rank 0 calls :meth:`follow` too, all are done.

    Raises UserError, on construction, if more threads are asked for than the rank has cores; Stopped, on entering, if
    any rank's memory budget is too small.

    capacity: the longest sequence, in positions.
    """

    def __init__(self, world: World, cores: Cores, slab: Slab, options: MachineOptions, capacity: int):
        self._threads = cores.threads(options.threads)
        self.world = world
        self.slab = slab
        self.trace = Trace(record=options.trace is not None)
        self.chunking = Chunking.of(slab.config.hidden_size, capacity, options.overlap and world.overlaps)
        self._options = options
        self._cores = cores
        self._capacity = capacity

    def __enter__(self) -> "Engine":
        options, width = self._options, self.slab.config.hidden_size
        with ExitStack() as stack:
            stack.enter_context(self.world.doing(self.trace.describe))
            slab, rank = self.slab, self.world.rank
            with compiled_once(self.world, self._cores):  # before anything waits for kernels, or measures memory
                prepare(slab.computed, options.planes, [wire(options.wire).dtype, *slab.looked_up])
                self._linear = stack.enter_context(open_linear(self._threads, options.planes))
            self._model = ModelShard(slab.config, slab.partition, rank, slab.kv_dtype, self._linear)
            self.allreduce = ALGORITHMS[options.allreduce](self.world, wire(options.wire), width, self.chunking.most)
            reduce = StarReduce(self.world, wire(options.wire), width, most_rows=1)
            sums = stack.enter_context(Sums(self.allreduce, reduce, self.trace))
            warm_up(self.slab, self._model, self.allreduce, self.chunking.most, self._capacity)
            with self.world.agreed():
                self.plan = self._plan(self.slab.resident)
            self.trace.reset()  # at the same moment on every rank
            self.window = stack.enter_context(self._open_window())
            if options.trace:
                stack.enter_context(sampled(self.trace.sample))
            if self.world.is_root:
                self._embedding = stack.enter_context(Embedding(self.slab, options.deadline.silence))
            cache = self._model.new_cache(self._capacity)
            self._decoder = Decoder(self._model, cache, self.window, sums, self.chunking, self.trace)
            self._steps = Steps(self.world.comm, width, min(_ROWS_WITH_HEADER, self.chunking.most))
            self._resources = stack.pop_all()
        return self

    def _plan(self, blocks: dict[str, int]) -> Plan:
        """Which blocks are pinned. Raises UserError if the memory budget is too small.

        blocks: bytes of memory that each takes, by name, in the order of use.
        """
        options = self._options
        if options.window is not None and options.memory is None:
            return plan_window(blocks, options.window)
        budget = options.memory or default_budget(self._cores.ranks)
        fixed = taken() + self._model.memory(self._capacity, self.chunking.most)
        return plan(blocks, budget, fixed, options.window)

    def _open_window(self) -> SlidingWindow:
        sizes = {name: extent.nbytes for name, extent in self.slab.sweep.items()}
        silence, used = self._options.deadline.silence, None
        if self.world.is_root:
            self._progress = SweepProgress(sizes, lambda: self.window.bytes_fetched)
            used = self._progress.block
        return SlidingWindow(self.slab, list(sizes), self.plan, self.trace, silence, used)

    def __exit__(self, *exception) -> None:
        self._resources.__exit__(*exception)

    def follow(self) -> None:
        """On rank 0, ends the generation; on the other ranks, takes part until it ends."""
        if self.world.is_root:
            self._steps.stop()
            return
        while received := self._steps.receive():
            self._sweep(*received)

    def tokens(self, request: Request) -> Generator[Token, None, None]:
        """On rank 0: yields the tokens that continue one sequence, as they are generated. The caller may stop early."""
        ids, start = list(request.token_ids), 0
        sampler = Sampler(request.sampling, ids)
        for count in range(1, request.sampling.max_new_tokens + 1):
            began = time.perf_counter()
            logits = self._forward(ids[start:], start)
            ids.append(sampler.choose(logits))
            reason = request.finish_reason(ids[-1], count)
            yield Token(ids[-1], log_probability(logits, ids[-1]), time.perf_counter() - began, reason)
            if reason:
                return
            start = 0 if self._model.rope.restarts_at(len(ids)) else len(ids) - 1

    def _forward(self, token_ids: Sequence[int], start: int) -> np.ndarray:
        """The logits (vocab_size,) of the token that follows these, the first of which is at position ``start``."""
        step, hidden = Step(start, len(token_ids)), self._embedding(token_ids)
        self._steps.send(step, hidden)
        with self._progress.sweep():
            return self._sweep(step, hidden)

    def _sweep(self, step: Step, hidden: np.ndarray) -> np.ndarray | None:
        logits = self._decoder.sweep(step, hidden)
        self._linear.adapt()
        return logits

    def settings(self) -> RunSettings:
        """The settings of this run, for its report."""
        return RunSettings(
            world_size=self.world.size,
            allreduce=self._options.allreduce,
            allreduce_choice=self.allreduce.choice(),
            wire=self._options.wire,
            overlap=self.chunking.overlap,
            dtype=self.slab.dtype,
            activations=self._options.activations,
        )

    def usage(self) -> RankUsage:
        """What this rank has used so far."""
        sizes = {name: extent.nbytes for name, extent in self.slab.sweep.items()}
        return RankUsage(
            rank=self.world.rank,
            host=self.world.host,
            threads=self._threads,
            kernels=tuple(self._linear.describe(self.slab.matrices)),
            peak_rss_bytes=peak_rss(),
            budget_bytes=self.plan.budget,
            slab_bytes=self.slab.nbytes,
            swept_bytes=sum(sizes.values()),
            streamed_bytes=sum(nbytes for name, nbytes in sizes.items() if name not in self.plan.pinned),
            bytes_fetched=self.window.bytes_fetched,
            pinned_blocks=len(self.plan.pinned),
            window_blocks=self.plan.window_blocks(self.slab.resident),
            window_bytes=self.plan.capacity,
            seconds=dict(self.trace.seconds),
        )
