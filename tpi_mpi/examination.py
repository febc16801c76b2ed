"""One rank's side of a check: what its machine has, and how fast it is while the others are examined too."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from tpi_mpi import probes
from tpi_mpi.allreduce import ALGORITHMS
from tpi_mpi.assembly import own_slab
from tpi_mpi.blocks import attention_name, feed_forward_name
from tpi_mpi.budget import plan
from tpi_mpi.decoder import chunk_rows, chunk_sizes
from tpi_mpi.disks import Readable, read_rate, scratch_file, slab_file
from tpi_mpi.errors import UserError
from tpi_mpi.memory import available, default_budget, taken
from tpi_mpi.model import ModelShare
from tpi_mpi.options import CheckOptions
from tpi_mpi.parallel import World
from tpi_mpi.prediction import Machine, Share, Work
from tpi_mpi.processors import Processors
from tpi_mpi.rehearsal import rehearse
from tpi_mpi.sketch import sketch
from tpi_mpi.slabs import slab_path
from tpi_mpi.subject import Subject
from tpi_mpi.versions import versions
from tpi_mpi.wire import wire


class Examination:
    """What one rank finds out about its machine. A context manager, entered and left by all together.

    problems: sentences about this rank. slab: its own, or where that is no good a sketch.
    """

    def __init__(self, world: World, options: CheckOptions, subject: Subject):
        self.world, self.options, self.subject = world, options, subject
        self.config = subject.config
        self.problems: list[str] = []
        self.slab = sketch(subject.config, subject.partition, world.rank, subject.dtype)
        self.state = "none yet" if subject.identity is None else self._open_slab()
        self.capacity = min(options.prompt_tokens + options.new_tokens, subject.config.context_length)
        self.chunk = min(chunk_rows(subject.config.hidden_size), self.capacity)
        self.overlap = options.machine.overlap and world.overlaps
        self.processors = Processors(world)
        self.threads = self._threads()

    def _open_slab(self) -> str:
        """Takes this rank's slab, if it is good; returns in a word what there is."""
        path = slab_path(self.options.slabs, self.world.rank)
        try:
            slab = own_slab(self.options.slabs, self.world.rank, self.world.size)
        except UserError as error:
            self.problems.append(str(error))
            return "bad" if path.is_file() else "missing"
        identity = slab.identity()
        different = [name for name, value in self.subject.identity.items() if identity[name] != value]
        if different:
            words = " and ".join(different)
            self.problems.append(f"slab {path} has another {words} than rank 0's; copy the one of the same split here")
            return "other"
        self.slab = slab
        return "good"

    def _threads(self) -> int:
        try:
            return self.processors.threads(self.options.machine.threads)
        except UserError as error:
            self.problems.append(str(error))
            return self.processors.threads()

    def __enter__(self) -> "Examination":
        torch.set_num_threads(self.threads)
        torch.set_grad_enabled(False)
        machine = self.options.machine
        make = ALGORITHMS[machine.allreduce]
        self.allreduce = make(self.world, wire(machine.wire), self.config.hidden_size, self.chunk)
        model = ModelShare(self.config, self.slab.partition, self.world.rank)
        rehearse(self.slab, model, self.allreduce, self.chunk)
        return self

    def __exit__(self, *exception) -> None:
        self.allreduce.free()

    def report(self) -> dict:
        """What this rank has and can; the problems that show meanwhile included."""
        memory = self._memory()
        return {
            "rank": self.world.rank,
            "host": self.world.host,
            "versions": versions(),
            "processors": len(self.processors.own),
            "threads": self.threads,
            "confined": self.processors.confined,
            **memory,
            "slab": {"state": self.state, "path": str(slab_path(self.options.slabs.absolute(), self.world.rank))},
            "rates": self._rates(),
            "problems": self.problems,
        }

    def _memory(self) -> dict[str, int]:
        """Bytes. Before any rate is measured, which takes memory too."""
        budget = self.options.machine.memory or default_budget(self.processors.ranks)
        machine = Machine(self.world.host, budget, taken(), 1, 1, 1, 1)
        share = Share.of(self.slab, machine, self.work(dict.fromkeys([1, *self._chunks()], 0.0)))
        try:
            plan(share.blocks, budget, share.fixed)
        except UserError as error:
            self.problems.append(str(error))
        return {
            "free_bytes": available(),
            "budget_bytes": budget,
            "taken_bytes": machine.taken,
            "share_bytes": share.nbytes,
        }

    def _rates(self) -> dict[str, float | None]:
        layer, rows = (attention_name(0), feed_forward_name(0)), self._chunks()[0]
        with self._readable() as readable:
            read = read_rate(self.world, readable)
        return {
            "read": read,
            "memory": probes.memory_rate(self.world),
            "vector": probes.vector_rate(self.world, self.slab, layer),
            "prompt": probes.prompt_rate(self.world, self.slab, layer, rows),
        }

    @contextmanager
    def _readable(self) -> Iterator[Readable | None]:
        """Something to read on this rank's disk, if anything can be."""
        with ExitStack() as stack:
            try:
                good = self.state == "good"
                readable = stack.enter_context(slab_file(self.slab) if good else scratch_file(self.options.slabs))
            except (UserError, OSError) as error:
                self.problems.append(str(error))
                readable = None
            yield readable

    def sums(self) -> dict[int, float]:
        """Seconds that one sum over the ranks takes, by rows."""
        rows = sorted({1, *self._chunks()})
        width = self.config.hidden_size
        return {count: probes.allreduce_seconds(self.world, self.allreduce, count, width) for count in rows}

    def _chunks(self) -> list[int]:
        """Rows of each chunk of the prompt."""
        return chunk_sizes(self.options.prompt_tokens, self.chunk, self.overlap)

    def work(self, sums: dict[int, float]) -> Work:
        return Work(
            prompt_tokens=self.options.prompt_tokens,
            capacity=self.capacity,
            chunk=self.chunk,
            token_sum=sums[1],
            prompt_sum=sum(sums[rows] for rows in self._chunks()),
            overlap=self.overlap and len(self._chunks()) > 1,
        )
