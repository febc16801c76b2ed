"""From requests to tokens: everything one rank needs to take part, set up and taken down again."""

from contextlib import ExitStack

import numpy as np

from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.allreduce.algorithms import ALGORITHMS
from tpi_mpi.comm.allreduce.star import StarReduce
from tpi_mpi.comm.wire import Wire, wire
from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.memory import default_budget, peak_rss, sampled, taken
from tpi_mpi.common.options.machine import NO_DRAFT, MachineOptions
from tpi_mpi.common.trace import Trace
from tpi_mpi.common.units import format_size
from tpi_mpi.engine.demand import Demand, most_drafted
from tpi_mpi.engine.drafting.draft_model import DraftModel
from tpi_mpi.engine.drafting.draft_shard import DraftShard
from tpi_mpi.engine.drafting.lookup import Lookup
from tpi_mpi.engine.drafting.sources import DraftSlab, draft_slab
from tpi_mpi.engine.drafting.speculator import Speculator
from tpi_mpi.engine.leader import Leader
from tpi_mpi.engine.planning import agree_on_room
from tpi_mpi.engine.progress import SweepProgress
from tpi_mpi.engine.report import RankUsage, RunSettings, Throughput
from tpi_mpi.engine.sampling.grammars import Grammars
from tpi_mpi.engine.schedule.pace import Pace
from tpi_mpi.engine.schedule.scheduler import Scheduler
from tpi_mpi.engine.sweep.chunking import Chunking
from tpi_mpi.engine.sweep.decoder import Decoder
from tpi_mpi.engine.sweep.page_tables import PageTables
from tpi_mpi.engine.sweep.readout import Readout
from tpi_mpi.engine.sweep.step import Operation, Step, Steps
from tpi_mpi.engine.sweep.sums import Sums
from tpi_mpi.engine.sweep.warmup import compiled_once, warm_up
from tpi_mpi.engine.sweep.weights import Weights
from tpi_mpi.kernels.kv_cache import KVCache
from tpi_mpi.kernels.linear import Linear, open_linear, prepare
from tpi_mpi.model.room import HEAD_ROWS, Room
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.weights.budget import Plan, plan, plan_window
from tpi_mpi.weights.embedding import Embedding
from tpi_mpi.weights.experts.cache import ExpertCache
from tpi_mpi.weights.experts.residency import Residency
from tpi_mpi.weights.experts.shares import shares
from tpi_mpi.weights.experts.sizes import ExpertSizes
from tpi_mpi.weights.slabs.slab import Slab
from tpi_mpi.weights.window import SlidingWindow


class Engine:
    """One rank's part of the generation.

    A context manager, entered and left by all ranks together. Rank 0 generates with its :attr:`leader` while the others
    :meth:`follow`; when rank 0 calls :meth:`follow` too, all are done.

    Raises UserError, on construction, if more threads are asked for than the rank has cores; Stopped, on entering, if
    any rank's memory budget is too small.

    demand: what is going to be asked for. shown: whether slow sweeps show on rank 0's terminal how far they are.
    leader, progress: on rank 0; of the sweep under way. room: what there is room for at once.
    """

    leader: Leader
    progress: SweepProgress

    def __init__(
        self, world: World, cores: Cores, slab: Slab, options: MachineOptions, demand: Demand, shown: bool = True
    ):
        self._threads = cores.threads(options.threads)
        self.world = world
        self.slab = slab
        self._expert_sizes = ExpertSizes.of(slab)
        self.trace = Trace(record=options.trace is not None)
        self._demand = demand
        drafted = 0 if options.draft == NO_DRAFT else most_drafted(slab.config.vocab_size)
        width = slab.config.hidden_size
        choices = demand.choices(options.batch)
        self._rooms = [room for count in choices for room in demand.rooms(count, width, drafted)]
        self._most_rows = max(room.rows for room in self._rooms)
        overlap = options.overlap and world.overlaps
        self.chunking = Chunking.of(slab.config.hidden_size, self._most_rows, overlap)
        self._options = options
        self._cores = cores
        self._shown = shown

    def __enter__(self) -> "Engine":
        options, slab = self._options, self.slab
        with ExitStack() as stack:
            stack.enter_context(self.world.doing(self.trace.describe))
            way = wire(options.wire, slab.config.hidden_size)
            drafts = draft_slab(self.world, slab, options.draft_model)
            self._linear = self._open_linear(stack, way, drafts)
            self._model = ModelShard(slab.config, slab.partition, self.world.rank, self.kv_dtype, self._linear)
            sums = self._open_sums(stack, way, drafts)
            looks_up = options.looks_up and self.world.is_root
            self._lookup = Lookup(self._demand.longest) if looks_up else None
            self._grammars = self._open_grammars()
            blocks = slab.resident
            self.room, self.plan = agree_on_room(self.world, self._rooms, slab, lambda room: self._plan(blocks, room))
            self.trace.reset()  # at the same moment on every rank
            self.window = stack.enter_context(self._open_window())
            self.experts = self._open_experts(stack)
            if options.trace:
                stack.enter_context(sampled(self.trace.sample))
            cache = self._model.new_cache(self.room.pages, self.room.longest)
            tables = PageTables(self.room)
            weights = Weights(self.window, self.experts)
            self._decoder = Decoder(self._model, cache, tables, weights, sums, self.chunking, self.trace)
            if self._draft:
                self._draft.open(stack, self.room, cache, tables, sums, self.trace, options.deadline.silence)
            self._steps = Steps(self.world.comm, slab.config.hidden_size, self.room)
            if self.world.is_root:
                self.leader = self._lead(stack)
            self._resources = stack.pop_all()
        return self

    def _open_linear(self, stack: ExitStack, way: Wire, drafts: DraftSlab | None) -> Linear:
        """What multiplies, once everything is compiled: before anything waits for kernels, or measures memory."""
        slab, planes = self.slab, self._options.planes
        with compiled_once(self.world, self._cores):
            cached = KVCache.layouts(slab.config.head_dim, self.kv_dtype)
            dtypes, matrices = [way.dtype, *slab.looked_up], slab.matrices
            if drafts:
                matrices = tuple(dict.fromkeys([*matrices, *drafts.slab.matrices]))
                cached = [*cached, *KVCache.layouts(drafts.slab.config.head_dim, self.kv_dtype)]
                dtypes += drafts.slab.looked_up
            prepare(matrices, planes, cached, dtypes, experts=bool(slab.experts))
            return stack.enter_context(open_linear(self._threads, planes))

    def _open_sums(self, stack: ExitStack, way: Wire, drafts: DraftSlab | None) -> Sums:
        """What adds over the ranks, after a first pass through it and the model, after which all have their memory."""
        width, most = self.slab.config.hidden_size, self.chunking.most
        self.allreduce = ALGORITHMS[self._options.allreduce](self.world, way, width, most)
        reduce = StarReduce(self.world, way, width, min(HEAD_ROWS, most))
        sums = stack.enter_context(Sums(self.allreduce, reduce, self.trace))
        warm_up(self.slab, self._model, self.allreduce, reduce, most, self._most_rows, self._demand.longest)
        self._draft = None
        if drafts:
            self._draft = DraftShard(drafts, self._linear, self.kv_dtype, self._most_rows)
            own = (self.allreduce, reduce) if drafts.shared else (None, None)
            self._draft.warm_up(*own, self._most_rows, self._demand.longest)
        return sums

    def _open_grammars(self) -> Grammars | None:
        """What makes grammars on rank 0, if any are to be made: before memory is measured. Collective."""
        directory, config = self.slab.path.parent, self.slab.config
        wanted = self._options.grammar and self.world.is_root
        with self.world.agreed():
            return Grammars(directory, config.vocab_size, config.eos_token_id) if wanted else None

    @property
    def kv_dtype(self) -> str:
        """The dtype of keys and values."""
        return self._options.kv or self.slab.kv_dtype

    def _plan(self, blocks: dict[str, int], room: Room) -> Plan:
        """Which blocks are pinned. Raises UserError if the memory budget is too small.

        blocks: bytes of memory that each takes, by name, in the order of use.
        """
        options = self._options
        if options.window is not None and options.memory is None:
            return plan_window(blocks, options.window, self._expert_sizes)
        budget = options.memory or default_budget(self._cores.ranks)
        fixed = taken() + self._model.memory(room, self.chunking.most)
        if self._grammars:
            fixed += self._grammars.memory(room.sequences)
        if not self._draft:
            return plan(blocks, budget, fixed, options.window, self._expert_sizes)
        try:
            return plan(blocks, budget, fixed + self._draft.memory(room), options.window, self._expert_sizes)
        except UserError as error:
            size = format_size(self._draft.weights)
            raise UserError(f"{error}, or choose another --draft: this one's weights take {size} of it") from None

    def _open_window(self) -> SlidingWindow:
        silence, used = self._options.deadline.silence, None
        if self.world.is_root:
            self.progress = SweepProgress(self.slab.token_bytes, self._bytes_fetched, self._shown)
            used = self.progress.block
        return SlidingWindow(self.slab, list(self.slab.sweep), self.plan, self.trace, silence, used)

    def _bytes_fetched(self) -> int:
        return self.window.bytes_fetched + (self.experts.bytes_fetched if self.experts else 0)

    def _open_experts(self, stack: ExitStack) -> ExpertCache | None:
        """None if the model has no experts."""
        if not self._expert_sizes:
            return None
        silence = self._options.deadline.silence
        residency = stack.enter_context(Residency(self.slab, self.plan.slots, self.trace, silence))
        own = shares(self.plan.slots, list(self.slab.experts), self._expert_sizes)
        cache = ExpertCache(self.slab, residency, own, self.trace)
        cache.read_all()
        return cache

    def _lead(self, stack: ExitStack) -> Leader:
        config, rope, progress = self.slab.config, self._model.rope, self.progress.sweep
        embedding = stack.enter_context(Embedding(self.slab, self._options.deadline.silence))
        scheduler, pace = Scheduler(self.room, rope, self._options.share_prefixes), Pace(self.room.rows)
        throughput = Throughput()
        speculator = self._speculate(stack, scheduler, embedding, throughput)
        return Leader(
            scheduler,
            pace,
            speculator,
            rope,
            config.vocab_size,
            embedding,
            self._sweep,
            progress,
            self.trace,
            throughput,
            self._grammars,
        )

    def _speculate(
        self, stack: ExitStack, scheduler: Scheduler, embedding: Embedding, throughput: Throughput
    ) -> Speculator:
        draft, model = self._draft, None
        if draft:
            if not draft.shared:
                embedding = stack.enter_context(Embedding(draft.slab, self._options.deadline.silence))
            forward = self._sweep if draft.shared else draft.sweep
            sizes = self.slab.config.vocab_size, draft.slab.config.vocab_size
            model = DraftModel(draft.kind, scheduler, embedding, forward, self.room, *sizes, draft.shared)
        return Speculator(scheduler, self._lookup, model, throughput.draft)

    def __exit__(self, *exception) -> None:
        self._resources.__exit__(*exception)

    def follow(self) -> bool:
        """On rank 0, ends the generation for the moment; on the other ranks, takes part until it ends.

        Returns whether it may go on later, for all that is known.
        """
        if not self.world.is_root:
            return self._follow_until(Operation.PAUSE, Operation.STOP) is Operation.PAUSE
        self._steps.pause()
        return True

    def follow_to_the_end(self) -> None:
        """On rank 0, ends the generation for good; on the other ranks, takes part until then, whatever the pauses."""
        if self.world.is_root:
            self._steps.stop()
        else:
            self._follow_until(Operation.STOP)

    def _follow_until(self, *operations: Operation) -> Operation:
        while (operation := self._follow_step()) not in operations:
            pass
        return operation

    def _follow_step(self) -> Operation | None:
        """Takes part in a sweep, and forgets its states before the next one's come; or returns what came instead."""
        received = self._steps.receive()
        if isinstance(received, Operation):
            return received
        self._compute(*received)
        return None

    def _sweep(self, step: Step, hidden: np.ndarray, readout: Readout) -> None:
        """On rank 0: has all ranks make a sweep."""
        self._steps.send(step, hidden)
        self._compute(step, hidden, readout)

    def _compute(self, step: Step, hidden: np.ndarray, readout: Readout | None = None) -> None:
        (self._draft if step.draft else self._decoder).sweep(step, hidden, readout)
        self._linear.adapt()

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
            kv=self.kv_dtype,
            sequences=self.room.sequences,
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
            kv_bytes=self.room.kv_bytes(self.slab.config, self._model.shapes, self.kv_dtype),
            slab_bytes=self.slab.nbytes,
            swept_bytes=sum(sizes.values()),
            streamed_bytes=sum(nbytes for name, nbytes in sizes.items() if name not in self.plan.pinned),
            draft_bytes=self._draft.weights if self._draft else 0,
            bytes_fetched=self._bytes_fetched(),
            experts=self.experts and self.experts.usage(),
            pinned_blocks=len(self.plan.pinned),
            window_blocks=self.plan.window_blocks(self.slab.resident),
            window_bytes=self.plan.capacity,
            seconds=dict(self.trace.seconds),
        )
