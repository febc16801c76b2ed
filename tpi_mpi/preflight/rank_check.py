"""One rank's side of a check: what its machine has, and how fast it is while all others are measured too."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.allreduce.algorithms import ALGORITHMS
from tpi_mpi.comm.allreduce.star import StarReduce
from tpi_mpi.comm.wire import wire
from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.memory import available, default_budget, taken
from tpi_mpi.common.options.programs import CheckOptions
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.sweep.chunking import Chunking
from tpi_mpi.engine.sweep.warmup import compiled_once, warm_up
from tpi_mpi.kernels.formats import Format
from tpi_mpi.kernels.kv_cache import KVCache
from tpi_mpi.kernels.linear import open_linear, prepare
from tpi_mpi.measurement import probes
from tpi_mpi.measurement.disk_probe import Readable, read_rate, scratch_file, slab_file
from tpi_mpi.measurement.format_probe import formats_to_probe, probe_formats, rates_from
from tpi_mpi.measurement.performance_model import Shard, Work
from tpi_mpi.model.room import HEAD_ROWS
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.preflight.target import Target
from tpi_mpi.preflight.versions import versions
from tpi_mpi.weights.slabs.directory import own_slab, slab_path
from tpi_mpi.weights.slabs.slab import planned_slab

# Formats that are measured besides those of the slabs: these may be split again, in another format.
_COMMON_FORMATS = (Format("bfloat16"), Format.of("int8"), Format.of("int4"))


class RankCheck:
    """What one rank finds out about its machine. A context manager, entered and left by all ranks together.

    problems: sentences about this rank. state: of its slab, in a word. slab: its own or, if that is no good or does
    not exist yet, one as it should be, without a file.
    """

    def __init__(self, world: World, options: CheckOptions, target: Target):
        self.world, self.options, self.target = world, options, target
        config, self.problems = target.config, []
        self.slab = planned_slab(config, target.partition, world.rank, target.formats)
        self.state = "none yet" if target.identity is None else self._open_slab()
        self.capacity = min(options.prompt_tokens + options.new_tokens, config.context_length)
        self.chunking = Chunking.of(config.hidden_size, self.capacity, options.machine.overlap and world.overlaps)
        self.cores = Cores(world)
        self.threads = self._threads()

    def _open_slab(self) -> str:
        """Opens this rank's slab; notes what is wrong with it. Returns its state: good, missing, bad or other."""
        path = slab_path(self.options.slabs, self.world.rank)
        try:
            slab = own_slab(self.options.slabs, self.world.rank, self.world.size)
        except UserError as error:
            self.problems.append(str(error))
            return "bad" if path.is_file() else "missing"
        identity = slab.identity()
        different = [name for name, value in self.target.identity.items() if identity[name] != value]
        if different:
            words = " and ".join(different)
            self.problems.append(
                f"slab {path} has a different {words} from rank 0's; copy the slab of the same split here"
            )
            return "other"
        self.slab = slab
        return "good"

    def _threads(self) -> int:
        try:
            return self.cores.threads(self.options.machine.threads)
        except UserError as error:
            self.problems.append(str(error))
            return self.cores.threads()

    def __enter__(self) -> "RankCheck":
        machine, slab = self.options.machine, self.slab
        way = wire(machine.wire, slab.config.hidden_size)
        make = ALGORITHMS[machine.allreduce]
        with ExitStack() as stack:
            with compiled_once(self.world, self.cores):
                cached = KVCache.layouts(slab.config.head_dim, slab.kv_dtype)
                prepare(slab.matrices, machine.planes, cached, [way.dtype], experts=bool(slab.experts))
                self.linear = stack.enter_context(open_linear(self.threads, machine.planes))
            self.allreduce = make(self.world, way, slab.config.hidden_size, self.chunking.most)
            stack.callback(self.allreduce.free)
            model = ModelShard(slab.config, slab.partition, self.world.rank, slab.kv_dtype, self.linear)
            reduce = StarReduce(self.world, way, slab.config.hidden_size, min(HEAD_ROWS, self.chunking.most))
            stack.callback(reduce.free)
            rows = Demand.of_one(self.capacity).room(1, slab.config.hidden_size).rows
            warm_up(slab, model, self.allreduce, reduce, self.chunking.most, rows, self.capacity)
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        self._resources.__exit__(*exception)

    def report(self) -> dict:
        """This rank's entry in the report, including the problems that come to light meanwhile."""
        memory = self._memory()  # before the rates are measured, which takes memory too
        return {
            "rank": self.world.rank,
            "host": self.world.host,
            "versions": versions(),
            "cores": len(self.cores.own),
            "threads": self.threads,
            "confined": self.cores.confined,
            **memory,
            "slab": {"state": self.state, "path": str(slab_path(self.options.slabs.absolute(), self.world.rank))},
            "rates": self._rates(),
            "problems": self.problems,
        }

    def _memory(self) -> dict[str, object]:
        """The memory that is free, that the rank may take, that it has taken, and that its shard needs, in bytes."""
        budget, own = self.options.machine.memory or default_budget(self.cores.ranks), taken()
        shard = Shard.of(self.slab, self.capacity, self.chunking.most)
        slots = 0
        try:
            slots = shard.plan(budget, own).slots
        except UserError as error:
            self.problems.append(str(error))
        return {
            "free_bytes": available(),
            "budget_bytes": budget,
            "taken_bytes": own,
            "shard_bytes": shard.nbytes,
            "experts": shard.experts.to_json(slots),
        }

    def _rates(self) -> dict:
        with self._readable() as readable:
            read = read_rate(self.world, readable, self.options.deadline.silence)
        chunk = self.chunking.sizes(self.options.prompt_tokens)[0]
        formats = formats_to_probe(self.world, self.slab, _COMMON_FORMATS)
        found = probe_formats(self.world, self.cores, self.slab, self.linear, formats, [1], [chunk])
        return rates_from(read, found, chunk).to_json()

    @contextmanager
    def _readable(self) -> Iterator[Readable | None]:
        """A file to read on this rank's disk, or None if there can be none."""
        with ExitStack() as stack:
            try:
                good = self.state == "good"
                readable = stack.enter_context(slab_file(self.slab) if good else scratch_file(self.options.slabs))
            except (UserError, OSError) as error:
                self.problems.append(str(error))
                readable = None
            yield readable

    def sums(self) -> dict[int, float]:
        """Seconds that one sum over the ranks takes, by number of rows. Called by all ranks together."""
        width = self.slab.config.hidden_size
        return {rows: probes.allreduce_seconds(self.world, self.allreduce, rows, width) for rows in self._rows()}

    def _rows(self) -> list[int]:
        """Every number of rows that is summed: one for a token, and that of each chunk of the prompt."""
        return sorted({1, *self.chunking.sizes(self.options.prompt_tokens)})

    def work(self, sums: dict[int, float]) -> Work:
        """What the machines are asked to do. sums: from :meth:`sums`."""
        return Work(
            prompt_tokens=self.options.prompt_tokens,
            capacity=self.capacity,
            chunk=self.chunking.most,
            token_sum=sums[1],
            prompt_sum=sum(sums[rows] for rows in self.chunking.sizes(self.options.prompt_tokens)),
            overlap=self.chunking.overlaps(self.options.prompt_tokens),
        )
