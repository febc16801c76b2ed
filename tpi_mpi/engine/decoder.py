"""One sweep over all blocks, in step on every rank."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tpi_mpi.common.trace import Trace
from tpi_mpi.engine.chunking import Chunking
from tpi_mpi.engine.step import Step
from tpi_mpi.engine.sums import Sums
from tpi_mpi.kernels.blocks import DECODE, Span
from tpi_mpi.kernels.kv_cache import KVCache
from tpi_mpi.kernels.operand import Tensors
from tpi_mpi.model.blocks import Block, Kind
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.weights.window import SlidingWindow


@dataclass(frozen=True)
class _Chunk:
    """Positions that pass through a block together, and their hidden states (count, hidden_size)."""

    span: Span
    states: np.ndarray


class Decoder:
    """Passes hidden states through the model, on all ranks together.

    For each block, every rank computes its partial on its own heads or columns; the partials are summed over the
    ranks, and the sum is added to the hidden states, which therefore stay the same on every rank. A prompt goes block
    by block: all its chunks pass through one block before the next, so that each block is fetched once. While the sum
    of one chunk is on its way, the next chunk is computed.

    Only the last position of the last layer's output is needed, and only on rank 0.
    """

    def __init__(
        self, model: ModelShard, cache: KVCache, window: SlidingWindow, sums: Sums, chunking: Chunking, trace: Trace
    ):
        self._model = model
        self._cache = cache
        self._window = window
        self._sums = sums
        self._chunking = chunking
        self._trace = trace
        self._last_layer = model.config.num_hidden_layers - 1

    def sweep(self, step: Step, hidden: np.ndarray) -> np.ndarray | None:
        """On rank 0, returns the logits (vocab_size,) of the next token; on the others, takes part and returns None.

        hidden: float32 (T, hidden_size), the embeddings of the step's tokens, the same on every rank; overwritten.
        """
        chunks, logits = self._chunks(step, hidden), []
        later = self._chunking.overlaps(step.count)
        last = chunks[-1].states[-1:]
        for block in self._model.blocks:
            with self._window.block(block.name) as weights:
                if block.kind is Kind.HEAD:
                    logits.append(self._head(block, weights, last, first=not logits))
                elif block.layer < self._last_layer:
                    self._pass_through(block, weights, chunks, later)
                elif block.kind is Kind.ATTENTION:
                    self._last_attention(block, weights, chunks, last)
                else:
                    self._last_feed_forward(block, weights, last)
        return np.concatenate(logits) if logits else None

    def _chunks(self, step: Step, hidden: np.ndarray) -> list[_Chunk]:
        chunks, done = [], 0
        for count in self._chunking.sizes(step.count):
            span = self._model.span(step.start + done, count, step.length)
            chunks.append(_Chunk(span, hidden[done : done + count]))
            done += count
        return chunks

    def _pass_through(self, block: Block, weights: Tensors, chunks: Sequence[_Chunk], later: bool) -> None:
        """Adds the block's output to the hidden states, chunk by chunk."""
        for chunk in chunks:
            self._sums.settle(chunk.states)
            if not later:
                self._sums.expect(len(chunk.states))
            partial = self._partial(block, weights, chunk)
            (self._sums.add_later if later else self._sums.add)(block.name, chunk.states, partial)

    def _last_attention(self, block: Block, weights: Tensors, chunks: Sequence[_Chunk], last: np.ndarray) -> None:
        """Adds the output for the last position alone; the others are needed only for their keys and values."""
        for chunk in chunks:
            self._sums.settle(chunk.states)
            partial = self._partial(block, weights, chunk)
        self._sums.add(block.name, last, partial[-1:])

    def _last_feed_forward(self, block: Block, weights: Tensors, last: np.ndarray) -> None:
        self._sums.expect_on_root(len(last))
        with self._trace.span("compute", block.name):
            partial = self._model.feed_forward(weights, last, DECODE)
        self._sums.add_on_root(block.name, last, partial)

    def _partial(self, block: Block, weights: Tensors, chunk: _Chunk) -> np.ndarray:
        with self._trace.span("compute", block.name):
            if block.kind is Kind.ATTENTION:
                return self._model.attention(weights, chunk.states, block.layer, chunk.span, self._cache)
            return self._model.feed_forward(weights, chunk.states, chunk.span.work)

    def _head(self, block: Block, weights: Tensors, last: np.ndarray, first: bool) -> np.ndarray:
        """The logits of one slice of the vocabulary; the final norm is applied before the ``first`` slice."""
        with self._trace.span("compute", block.name):
            if first:
                last[:] = self._model.final_norm(weights, last)
            return self._model.logits(weights, last)[0]
