"""From prompts to tokens: everything a rank needs to take part, put together and taken apart again."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from tpi_mpi.allreduce import ALGORITHMS
from tpi_mpi.blocks import EMBEDDING
from tpi_mpi.decoder import CHUNK, Decoder
from tpi_mpi.embedding import Embedding
from tpi_mpi.mapping import SlabFile
from tpi_mpi.memory import Plan, default_budget, fixed_size, plan
from tpi_mpi.model import ModelShare
from tpi_mpi.options import GenerateOptions, SamplingOptions
from tpi_mpi.parallel import World
from tpi_mpi.processors import Processors
from tpi_mpi.sampling import Sampler, log_probability
from tpi_mpi.slabs import Slab
from tpi_mpi.steps import Steps
from tpi_mpi.timeline import Timeline
from tpi_mpi.window import SlidingWindow


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

    Rank 0 generates with :meth:`tokens` while the others :meth:`follow`; when it follows too, all are done.
    Raises UserError, on construction, where the memory budget is too small.

    capacity: the longest text, in positions.
    """

    def __init__(self, world: World, processors: Processors, slab: Slab, options: GenerateOptions, capacity: int):
        torch.set_num_threads(processors.threads(options.threads))
        torch.set_grad_enabled(False)
        self.world = world
        self.slab = slab
        self.config = slab.config
        self.timeline = Timeline(record=options.trace is not None)
        self.order = tuple(name for name in slab.blocks if name != EMBEDDING)
        self._options = options
        self._capacity = capacity
        self._model = ModelShare(slab.config, slab.partition, world.rank)
        self._dtype = getattr(torch, slab.dtype)
        self.plan = self._plan(processors.ranks)

    def _plan(self, ranks_here: int) -> Plan:
        blocks = {name: self.slab.blocks[name].nbytes for name in self.order}
        if self._options.window is not None and self._options.memory is None:
            return Plan(frozenset(), self._options.window)
        budget = self._options.memory or default_budget(ranks_here)
        cache = self._model.cache_size(self._capacity, self._dtype)
        fixed = fixed_size(cache, self._model.activations(self._capacity, CHUNK))
        return plan(blocks, budget, fixed, self._options.window)

    def __enter__(self) -> "Engine":
        self.timeline.reset()
        with ExitStack() as stack:
            self.window = stack.enter_context(
                SlidingWindow(self.slab, self.order, self.plan.depth, self.plan.pinned, self.timeline)
            )
            allreduce = ALGORITHMS[self._options.allreduce](self.world.comm, self.config.hidden_size)
            stack.callback(allreduce.free)
            file = SlabFile(self.slab.path)
            stack.callback(file.close)
            self._embedding = Embedding(self.slab, file) if self.world.is_root else None
            cache = self._model.new_cache(self._capacity, self._dtype)
            steps = Steps(self.world.comm, self.config.hidden_size)
            self._decoder = Decoder(self._model, self.window, cache, allreduce, steps, self.timeline)
            self._resources = stack.pop_all()
        return self

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
