"""A model that the ranks of a communicator run together, for programs of whoever has such a communicator."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path

from tpi_mpi.cli.program import open_slab
from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.world import world_of
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.machine import MachineOptions
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.common.units import parse_size
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.engine import Engine
from tpi_mpi.engine.generation import Generation
from tpi_mpi.engine.intake import Intake
from tpi_mpi.engine.report import Latencies
from tpi_mpi.interface.queries import Query, requests_of
from tpi_mpi.interface.replies import Completion


class Model:
    """A model on all ranks of a communicator.

        with Model.open("slabs", comm=MPI.COMM_WORLD, memory="2GiB") as model:
            for completion in model.generate(["The sky is", "Grass is"], max_new_tokens=8):
                print(completion.index, completion.text)

    Every rank may call :meth:`generate` and :meth:`score` alike, and iterate over what they return: rank 0's requests
    count, and it alone gets what comes of them, while the others take part until rank 0 is through. Or the others call
    :meth:`follow` once, and rank 0 asks whatever and as often as it likes, one generation after another.
    """

    def __init__(self, engine: Engine, intake: Intake | None):
        self._engine = engine
        self._intake = intake
        self._over = self._generating = False

    @classmethod
    @contextmanager
    def open(
        cls,
        slabs: str | PathLike,
        comm,
        *,
        memory: str | int | None = None,
        longest: int | None = None,
        **machine,
    ) -> Iterator["Model"]:
        """Opens a model that was split for as many ranks as the communicator has. Collective, like leaving it again.

        comm: a communicator of mpi4py, of which a duplicate is used.
        memory: peak resident memory of a rank, in bytes or as in ``"2GiB"``; None for its share of what is free.
        longest: positions of the longest sequence; None for the model's context, or 4096 if that is less.
        machine: any other of :class:`tpi_mpi.common.options.machine.MachineOptions`.

        Raises UserError on the rank whose mistake it is, or Stopped on every rank if they find it together. An
        exception inside the with-block ends all ranks of several, since the others would wait for this one.
        """
        options = MachineOptions(memory=parse_size(memory) if isinstance(memory, str) else memory, **machine)
        with world_of(comm) as world, world.watched(options.deadline):
            slab, cores = open_slab(world, Path(slabs)), Cores(world)
            demand = Demand.of_many(longest, slab.config.context_length, options.batch)
            with world.agreed():
                engine = Engine(world, cores, slab, options, demand, shown=False)
            with engine:
                intake = Intake(Path(slabs), slab.config, demand.longest) if world.is_root else None
                model = cls(engine, intake)
                yield model
                model.close()

    @property
    def is_root(self) -> bool:
        """Whether this is the rank that asks, and is answered."""
        return self._engine.world.is_root

    def generate(
        self, requests: Iterable[Query] = (), *, chat: bool = False, system: str | None = None, **sampling
    ) -> Generator[Completion, None, None]:
        """Continues texts or token ids; yields the completions as they end, in whatever order. On other ranks, nothing.

        requests: texts, sequences of token ids, or mappings with ``prompt`` or ``prompt_token_ids`` and options of
            their own; read as there is use for them. Only rank 0's count.
        chat: whether texts are put into the checkpoint's chat template, with the ``system`` prompt.
        sampling: any of :class:`tpi_mpi.common.options.sampling.SamplingOptions`, for requests that do not say.

        Raises UserError for a request that cannot be done, and on rank 0 while another generation is under way or once
        the model is closed. A caller that stops early should close the generator.
        """
        if not self.is_root:
            self._over = self._over or not self._engine.follow()
            return
        if self._over or self._generating:
            raise UserError("the model is closed" if self._over else "end or close the generation under way first")
        self._generating = True
        try:
            pairs = requests_of(requests, self._intake, SamplingOptions().override(sampling), chat, system)
            generation = Generation(self._engine.leader, self._intake, Latencies())
            with closing(generation.sweeps(pairs)) as sweeps:
                for answers in sweeps:
                    yield from map(Completion.of, answers)
        finally:
            self._generating = False
            if not self._over and not self._engine.leader.failed:
                self._engine.follow()

    def score(self, requests: Iterable[Query] = (), **options) -> Generator[Completion, None, None]:
        """The log-probability of every token of some prompts, and ``top_logprobs`` alternatives; generates nothing.

        requests, options: as of :meth:`generate`. Yields completions without text.
        """
        return self.generate(requests, **{**options, "prompt_logprobs": True, "max_new_tokens": 0})

    def follow(self) -> None:
        """On all ranks but rank 0: takes part in whatever that asks, until it closes the model."""
        if not self.is_root:
            self.close()

    def close(self) -> None:
        """Ends the model's work, on all ranks together; leaving the with-block does that."""
        if not self._over:
            self._over = True
            self._engine.follow_to_the_end()
