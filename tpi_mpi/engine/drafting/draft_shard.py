"""A rank's part of the model that drafts: all of it stays in memory."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from tpi_mpi.comm.allreduce.algorithms import Allreduce
from tpi_mpi.comm.allreduce.star import StarReduce
from tpi_mpi.common.trace import Renamed, Trace
from tpi_mpi.engine.drafting.sources import DraftSlab
from tpi_mpi.engine.sweep.chunking import Chunking
from tpi_mpi.engine.sweep.decoder import Decoder
from tpi_mpi.engine.sweep.page_tables import PageTables
from tpi_mpi.engine.sweep.readout import Readout
from tpi_mpi.engine.sweep.step import Step
from tpi_mpi.engine.sweep.sums import Sums
from tpi_mpi.engine.sweep.warmup import warm_up
from tpi_mpi.engine.sweep.weights import Weights
from tpi_mpi.kernels.kv_cache import KVCache
from tpi_mpi.kernels.linear import Linear
from tpi_mpi.model.room import Room
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.weights.budget import Plan
from tpi_mpi.weights.window import SlidingWindow


class DraftShard:
    """Computes sweeps of the model that drafts.

    rows: the most of a sweep.
    """

    def __init__(self, draft: DraftSlab, linear: Linear, kv_dtype: str, rows: int):
        self.slab, self.shared, self.kind = draft.slab, draft.shared, draft.kind
        self._model = ModelShard(self.slab.config, self.slab.partition, self.slab.rank, kv_dtype, linear)
        self._chunking = Chunking.of(self.slab.config.hidden_size, rows, overlap=False)

    def warm_up(self, allreduce: Allreduce | None, reduce: StarReduce | None, rows: int, longest: int) -> None:
        """Computes zeros, so that libraries have their memory; see :func:`tpi_mpi.engine.sweep.warmup.warm_up`."""
        warm_up(self.slab, self._model, allreduce, reduce, self._chunking.most, rows, longest)

    def memory(self, room: Room) -> int:
        """Bytes that drafting takes on this rank: weights, states and, unless they are shared, keys and values."""
        room = replace(room, top=None, drafted=0)
        states = self._model.memory(room, self._chunking.most)
        if self.shared:
            states -= room.kv_bytes(self.slab.config, self._model.shapes, self._model.kv_dtype)
        return self.weights + states

    @property
    def weights(self) -> int:
        """Bytes of memory that its weights take."""
        return sum(self.slab.resident.values())

    def open(
        self,
        stack: ExitStack,
        room: Room,
        cache: KVCache,
        tables: PageTables,
        sums: Sums,
        trace: Trace,
        patience: float,
    ) -> None:
        """Reads the weights.

        cache, tables, sums: of the model it drafts for. Where this is another one, it has keys and values of its own,
        in the same pages, and nothing to sum.
        """
        if not self.shared:
            cache = self._model.new_cache(room.pages, room.longest)
            sums = stack.enter_context(Sums(None, None, trace))
        everything = Plan(frozenset(self.slab.resident), 0, None, None)
        window = stack.enter_context(SlidingWindow(self.slab, list(self.slab.sweep), everything, trace, patience))
        drafting = Renamed(trace, "compute", "draft")
        self._decoder = Decoder(self._model, cache, tables, Weights(window), sums, self._chunking, drafting)
        for name in self.slab.sweep:  # so that the first draft waits for none
            with window.block(name):
                pass

    def sweep(self, step: Step, hidden: np.ndarray, readout: Readout | None = None) -> None:
        """Takes part in a sweep; see :meth:`tpi_mpi.engine.sweep.decoder.Decoder.sweep`."""
        self._decoder.sweep(step, hidden, readout)
