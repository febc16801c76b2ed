"""One sweep over all blocks, in step on every rank."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tpi_mpi.common.trace import Trace
from tpi_mpi.engine.sweep.chunking import Chunking
from tpi_mpi.engine.sweep.mixtures import Mixtures
from tpi_mpi.engine.sweep.page_tables import PageTables
from tpi_mpi.engine.sweep.readout import Readout
from tpi_mpi.engine.sweep.step import Segment, Step
from tpi_mpi.engine.sweep.sums import Sums
from tpi_mpi.engine.sweep.weights import Weights
from tpi_mpi.kernels.blocks import Segments
from tpi_mpi.kernels.kv_cache import KVCache
from tpi_mpi.kernels.operand import Tensors
from tpi_mpi.model.blocks import Block, Kind
from tpi_mpi.model.room import HEAD_ROWS
from tpi_mpi.model.transformer import ModelShard


@dataclass(frozen=True)
class _Chunk:
    """Rows that pass through a block together, and their hidden states (rows, hidden_size)."""

    segments: Segments
    states: np.ndarray


class Decoder:
    """Passes hidden states through the model, on all ranks together.

    For each block, every rank computes its partial on its own heads or columns; the partials are summed over the
    ranks, and the sum is added to the hidden states, which therefore stay the same on every rank. A sweep goes block
    by block: all its chunks pass through one block before the next, so that each block is fetched once. While the sum
    of one chunk is on its way, the next chunk is computed.

    Of the last layer's output only the rows that are wanted are needed, and only on rank 0.
    """

    def __init__(
        self,
        model: ModelShard,
        cache: KVCache,
        tables: PageTables,
        weights: Weights,
        sums: Sums,
        chunking: Chunking,
        trace: Trace,
    ):
        self._model = model
        self._cache = cache
        self._tables = tables
        self._window = weights.window
        self._mixtures = Mixtures(model, weights, trace)
        self._sums = sums
        self._chunking = chunking
        self._trace = trace
        self._last_layer = model.config.num_hidden_layers - 1

    def sweep(self, step: Step, hidden: np.ndarray, readout: Readout | None = None) -> None:
        """Takes part in a sweep.

        hidden: float32 (rows, hidden_size), the embeddings of the step's tokens, the same on every rank; overwritten.
        readout: on rank 0, what takes the logits of the rows that are wanted.
        """
        for copy in step.copies:
            self._cache.copy(copy.source, copy.target)
        self._tables.assign(step.assignments)
        chunks, wanted = self._chunks(step, hidden), step.wanted
        later, last, first_id = self._chunking.overlaps(step.rows), hidden[:0], 0
        for block in self._model.blocks:
            with self._window.block(block.name) as weights:
                if block.kind is Kind.HEAD:
                    first_id = self._head(block, weights, last, first_id, readout)
                elif block.layer < self._last_layer and block.kind is Kind.ROUTER:
                    self._mix(block, weights, chunks, hidden, len(wanted), later)
                elif block.layer < self._last_layer:
                    self._pass_through(block, weights, chunks, later)
                elif block.kind is Kind.ATTENTION:
                    last = self._last_attention(block, weights, chunks, hidden, wanted)
                elif block.kind is Kind.ROUTER:
                    self._last_mixture(block, weights, last)
                else:
                    self._last_feed_forward(block, weights, last)

    def _chunks(self, step: Step, hidden: np.ndarray) -> list[_Chunk]:
        chunks, first = [], 0
        for count in self._chunking.sizes(step.rows):
            parts = list(_between(step.segments, first, first + count))
            segments = self._model.segments(self._tables.pages, *zip(*parts, strict=True))
            chunks.append(_Chunk(segments, hidden[first : first + count]))
            first += count
        return chunks

    def _pass_through(self, block: Block, weights: Tensors, chunks: Sequence[_Chunk], later: bool) -> None:
        """Adds the block's output to the hidden states, chunk by chunk."""
        for chunk in chunks:
            self._sums.settle(chunk.states)
            if not later:
                self._sums.expect(len(chunk.states))
            partial = self._partial(block, weights, chunk)
            (self._sums.add_later if later else self._sums.add)(block.name, chunk.states, partial)

    def _mix(
        self, block: Block, weights: Tensors, chunks: Sequence[_Chunk], hidden: np.ndarray, wanted: int, later: bool
    ) -> None:
        """Adds what the experts compute to the hidden states, all of them at once: each expert is fetched only once."""
        for chunk in chunks:
            self._sums.settle(chunk.states)
        alone = len(chunks) == 1 and not later
        if alone:
            self._sums.expect(len(hidden))
        partial, first = self._mixtures.partial(block, weights, hidden, wanted), 0
        for chunk in chunks:
            own = partial[first : first + len(chunk.states)]
            if not (alone or later):
                self._sums.expect(len(own))
            (self._sums.add_later if later else self._sums.add)(block.name, chunk.states, own)
            first += len(own)
        if not later:
            self._mixtures.guess_after(block, hidden, wanted)

    def _last_mixture(self, block: Block, weights: Tensors, last: np.ndarray) -> None:
        partial = self._mixtures.partial(block, weights, last, len(last)) if len(last) else last
        for piece in _pieces(len(last), min(HEAD_ROWS, self._chunking.most)):
            self._sums.expect_on_root(len(last[piece]))
            self._sums.add_on_root(block.name, last[piece], partial[piece])

    def _last_attention(
        self, block: Block, weights: Tensors, chunks: Sequence[_Chunk], hidden: np.ndarray, wanted: Sequence[int]
    ) -> np.ndarray:
        """The output of the rows that are wanted; the others are needed only for their keys and values."""
        rows, first, done = np.array(wanted, np.int64), 0, 0
        last, sums = (np.empty((len(rows), hidden.shape[1]), np.float32) for _ in range(2))
        for chunk in chunks:
            self._sums.settle(chunk.states)
            partial = self._partial(block, weights, chunk)
            here = rows[(rows >= first) & (rows < first + len(partial))] - first
            place = slice(done, done + len(here))
            last[place], sums[place] = chunk.states[here], partial[here]
            first, done = first + len(partial), place.stop
        for piece in _pieces(len(last), self._chunking.most):
            self._sums.add(block.name, last[piece], sums[piece])
        return last

    def _last_feed_forward(self, block: Block, weights: Tensors, last: np.ndarray) -> None:
        for piece in _pieces(len(last), min(HEAD_ROWS, self._chunking.most)):
            states = last[piece]
            self._sums.expect_on_root(len(states))
            with self._trace.span("compute", block.name):
                partial = self._model.feed_forward(weights, states)
            self._sums.add_on_root(block.name, states, partial)

    def _partial(self, block: Block, weights: Tensors, chunk: _Chunk) -> np.ndarray:
        with self._trace.span("compute", block.name):
            if block.kind is Kind.ATTENTION:
                return self._model.attention(weights, chunk.states, block.layer, chunk.segments, self._cache)
            return self._model.feed_forward(weights, chunk.states)

    def _head(self, block: Block, weights: Tensors, last: np.ndarray, first_id: int, readout: Readout) -> int:
        """Reads out the logits of one slice of the vocabulary; returns the id of the token after it.

        The final norm is applied before the first slice.
        """
        if not len(last):
            return first_id
        with self._trace.span("compute", block.name):
            for piece in _pieces(len(last), HEAD_ROWS):
                if first_id == 0:
                    last[piece] = self._model.final_norm(weights, last[piece])
                logits = self._model.logits(weights, last[piece])
                readout.take(piece.start, first_id, logits)
        return first_id + logits.shape[1]


def _between(segments: Sequence[Segment], first: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Slot, first position, count and length of whatever is in the rows from ``first`` up to ``stop``."""
    row = 0
    for segment in segments:
        begin, end = max(first, row), min(stop, row + segment.count)
        if begin < end:
            yield segment.slot, segment.start + begin - row, end - begin, segment.length
        row += segment.count


def _pieces(rows: int, most: int) -> list[slice]:
    """Rows, at most ``most`` at a time."""
    return [slice(first, min(first + most, rows)) for first in range(0, rows, most)]
