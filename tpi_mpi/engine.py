"""From prompts to tokens: everything a rank needs to take part, put together and taken apart again."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from tpi_mpi.allreduce import ALGORITHMS
from tpi_mpi.budget import Plan, plan, window_size
from tpi_mpi.decoder import Decoder, chunk_rows
from tpi_mpi.embedding import Embedding
from tpi_mpi.memory import default_budget, sampled, taken
from tpi_mpi.model import ModelShare
from tpi_mpi.options import MachineOptions, SamplingOptions
from tpi_mpi.parallel import World
from tpi_mpi.processors import Processors
from tpi_mpi.progress import NoProgress, SweepProgress
from tpi_mpi.pulse import SILENCE
from tpi_mpi.rehearsal import rehearse
from tpi_mpi.sampling import Sampler, log_probability
from tpi_mpi.slabs import Slab
from tpi_mpi.star import StarReduce
from tpi_mpi.steps import Steps
from tpi_mpi.summing import Summing
from tpi_mpi.timeline import Timeline
from tpi_mpi.window import SlidingWindow
from tpi_mpi.wire import wire

# Hidden states that travel in one message with the header of a step: those of a token, and a few more.
_ROWS_WITH_HEADER = 8


@dataclass(frozen=True)
class Token:
    """One generated token.

    logprob: the model's own log-probability of it.
    seconds: from the moment it was asked for; for a text's first token, that is the TTFT.
    finish_reason: None while the text goes on, ``stop`` after an end-of-text token, ``length`` at the limit.
    """

    id: int
    logprob: float
    seconds: float
    finish_reason: str | None


@dataclass(frozen=True)
class Request:
    """One text to continue, with every option settled: max_new_tokens and seed are set."""

    token_ids: tuple[int, ...]
    sampling: SamplingOptions
    eos_token_ids: frozenset[int] = field(default_factory=frozenset)

    @property
    def length(self) -> int:
        """Positions of the finished text, the last token's not included: it is never read."""
        return len(self.token_ids) + self.sampling.max_new_tokens - 1


class Engine:
    """One rank's part of the generation.

    A context manager, entered and left by all ranks together. Raises Stopped, on entering, where any rank's memory
    budget is too small. Rank 0 generates with :meth:`tokens` while the others :meth:`follow`; when it follows too,
    all are done.

    capacity: the longest text, in positions.
    """

    def __init__(self, world: World, processors: Processors, slab: Slab, options: MachineOptions, capacity: int):
        torch.set_num_threads(processors.threads(options.threads))
        torch.set_grad_enabled(False)
        self.world = world
        self.slab = slab
        self.config = slab.config
        self.timeline = Timeline(record=options.trace is not None)
        world.describe = self.timeline.describe
        self.blocks = {name: extent.nbytes for name, extent in slab.sweep.items()}
        self._options = options
        self.overlap = options.overlap and world.overlaps
        self._ranks_here = processors.ranks
        self._capacity = capacity
        self._chunk = min(chunk_rows(slab.config.hidden_size), capacity)
        self._model = ModelShare(slab.config, slab.partition, world.rank)
        self._dtype = getattr(torch, slab.dtype)

    def __enter__(self) -> "Engine":
        width, options = self.config.hidden_size, self._options
        with ExitStack() as stack:
            self.allreduce = ALGORITHMS[options.allreduce](self.world, wire(options.wire), width, self._chunk)
            stack.callback(self.allreduce.free)
            rehearse(self.slab, self._model, self.allreduce, self._chunk)
            reduce = StarReduce(self.world, wire(options.wire), width, most_rows=1)
            stack.callback(reduce.free)
            with self.world.agreed():
                self.plan = self._plan()
            self.timeline.reset()  # at the same moment on every rank
            self.window = stack.enter_context(
                SlidingWindow(self.slab, self.blocks, self.plan, self.timeline, SILENCE * options.timeout)
            )
            if options.trace:
                stack.enter_context(sampled(self.timeline.sample))
            progress: SweepProgress | NoProgress = NoProgress()
            if self.world.is_root:
                self._embedding = stack.enter_context(Embedding(self.slab))
                progress = SweepProgress(self.blocks, lambda: self.window.bytes_fetched)
            cache = self._model.new_cache(self._capacity, self._dtype)
            self._decoder = Decoder(
                self._model,
                self.window,
                cache,
                stack.enter_context(Summing(self.allreduce, self.timeline)),
                reduce,
                Steps(self.world.comm, width, min(_ROWS_WITH_HEADER, self._chunk)),
                self.timeline,
                progress,
                self._chunk,
                self.overlap,
            )
            self._resources = stack.pop_all()
        return self

    def _plan(self) -> Plan:
        if self._options.window is not None and self._options.memory is None:
            self.budget = None
            sizes = list(self.blocks.values())
            return Plan(frozenset(), window_size(sizes, frozenset(), self._options.window), self._options.window)
        self.budget = self._options.memory or default_budget(self._ranks_here)
        cache = self._model.cache_size(self._capacity, self._dtype)
        fixed = taken() + cache + self._model.activations(self._capacity, self._chunk)
        return plan(self.blocks, self.budget, fixed, self._options.window)

    def __exit__(self, *exception) -> None:
        self._resources.__exit__(*exception)

    def follow(self) -> None:
        """On rank 0: ends the generation. On the others: takes part in it until it ends."""
        if self.world.is_root:
            self._decoder.stop()
        else:
            self._decoder.follow()

    def tokens(self, request: Request) -> Iterator[Token]:
        """On rank 0: the tokens that continue one text, as they come. May be left early."""
        ids, start = list(request.token_ids), 0
        sampler = Sampler(request.sampling, ids)
        for count in range(1, request.sampling.max_new_tokens + 1):
            began = time.perf_counter()
            scores = self._decoder.forward(self._embedding(ids[start:]), start)
            ids.append(sampler.choose(scores))
            reason = _finish_reason(request, ids[-1], count)
            yield Token(ids[-1], log_probability(scores, ids[-1]), time.perf_counter() - began, reason)
            if reason:
                return
            start = 0 if self._model.rope.restarts_at(len(ids)) else len(ids) - 1


def _finish_reason(request: Request, token_id: int, count: int) -> str | None:
    if token_id in request.eos_token_ids:
        return "stop"
    return "length" if count == request.sampling.max_new_tokens else None
