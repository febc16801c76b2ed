"""One sweep over all blocks, in step on every rank."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from tpi_mpi.blocks import attention_name, feed_forward_name, head_name
from tpi_mpi.cache import KVCache
from tpi_mpi.model import ModelShare, Span, Weights
from tpi_mpi.progress import NoProgress, SweepProgress
from tpi_mpi.star import StarReduce
from tpi_mpi.steps import Step, Steps
from tpi_mpi.summing import Summing
from tpi_mpi.timeline import Timeline
from tpi_mpi.units import MIB
from tpi_mpi.window import SlidingWindow

# A prompt passes through a block in chunks, which bounds the memory of activations: of at most so many tokens, and
# bytes of hidden states. Products of 128 rows run at 95 percent of the speed of larger ones.
_CHUNK_ROWS, _CHUNK_BYTES = 256, 4 * MIB
# From so many tokens on there are two chunks at least, so that one can be computed while the other is summed.
_OVERLAP_ROWS = 64


def chunk_rows(hidden_size: int) -> int:
    """Tokens of a prompt that may pass through a block together."""
    return max(16, min(_CHUNK_ROWS, _CHUNK_BYTES // (4 * hidden_size) // 16 * 16))


def chunk_sizes(tokens: int, most: int, overlap: bool) -> list[int]:
    """How so many tokens are dealt to chunks: evenly, each at most ``most``; with ``overlap``, to two or more."""
    chunks = -(-tokens // most)
    if overlap and tokens >= _OVERLAP_ROWS:
        chunks = max(2, chunks)
    rows = min(most, -(-tokens // (16 * chunks)) * 16)
    return [min(rows, tokens - start) for start in range(0, tokens, rows)]


@dataclass(frozen=True)
class _Chunk:
    """Positions that pass through a block together, and their hidden states (count, hidden_size)."""

    span: Span
    states: torch.Tensor


class Decoder:
    """Runs hidden states through the model: rank 0 leads with :meth:`forward`, the others :meth:`follow`.

    For each block, every rank computes its partial on its own heads or columns, the partials are summed over the
    ranks, and the sum is added to the hidden states, which so are the same everywhere. A prompt is taken block by
    block: all its chunks pass through one block before the next, so that each block is fetched once. While the sum
    of one chunk is on its way, the next chunk is computed.

    reduce: the sum that rank 0 alone needs, after the last block.
    chunk: most tokens of a chunk. overlap: whether sums go on behind computing.
    """

    def __init__(
        self,
        model: ModelShare,
        window: SlidingWindow,
        cache: KVCache,
        summing: Summing,
        reduce: StarReduce,
        steps: Steps,
        timeline: Timeline,
        progress: SweepProgress | NoProgress,
        chunk: int,
        overlap: bool,
    ):
        self._model = model
        self._window = window
        self._cache = cache
        self._summing = summing
        self._reduce = reduce
        self._steps = steps
        self._timeline = timeline
        self._progress = progress
        self._chunk = chunk
        self._overlap = overlap

    def forward(self, hidden: torch.Tensor, start: int) -> torch.Tensor:
        """On rank 0: the scores (vocab_size,) of the token that follows.

        hidden: (T, hidden_size), the embeddings of the tokens at the positions from ``start`` on; overwritten.
        """
        step = Step(start, len(hidden))
        self._steps.send(step, hidden)
        with self._progress.sweep():
            return self._score(self._sweep(step, hidden))

    def follow(self) -> None:
        """On the other ranks: takes part in every sweep until rank 0 calls :meth:`stop`."""
        while received := self._steps.receive():
            with self._progress.sweep():
                self._sweep(*received)

    def stop(self) -> None:
        """On rank 0: lets the others go."""
        self._steps.stop()

    def _sweep(self, step: Step, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden state (1, hidden_size) of the last position behind all blocks; whole on rank 0 alone."""
        chunks, last = self._chunks(step, hidden), self._model.config.num_hidden_layers - 1
        for layer in range(last):
            self._block(attention_name(layer), partial(self._attention, layer), chunks)
            self._block(feed_forward_name(layer), self._feed_forward, chunks)
        return self._last_layer(last, chunks)

    def _chunks(self, step: Step, hidden: torch.Tensor) -> list[_Chunk]:
        sizes, chunks, start = chunk_sizes(step.count, self._chunk, self._overlap), [], step.start
        for count, states in zip(sizes, hidden.split(sizes), strict=True):
            chunks.append(_Chunk(self._model.span(start, count, step.length), states))
            start += count
        return chunks

    def _block(self, name: str, compute: Callable, chunks: Sequence[_Chunk]) -> None:
        """Adds the block's output to the hidden states, a chunk at a time."""
        later = self._overlap and len(chunks) > 1
        with self._window.block(name) as weights:
            for chunk in chunks:
                self._summing.settle(chunk.states)
                if not later:
                    self._summing.expect(len(chunk.states))
                with self._timeline.span("compute", name):
                    output = compute(weights, chunk)
                (self._summing.add_later if later else self._summing.add)(name, chunk.states, output)
        self._progress.block(name)

    def _last_layer(self, layer: int, chunks: Sequence[_Chunk]) -> torch.Tensor:
        """Of the last layer, only the last position is needed further on: the others leave their keys and values."""
        last, name = chunks[-1].states[-1:], attention_name(layer)
        with self._window.block(name) as weights:
            for chunk in chunks:
                self._summing.settle(chunk.states)
                with self._timeline.span("compute", name):
                    output = self._attention(layer, weights, chunk)
            self._summing.add(name, last, output[-1:])
        self._progress.block(name)
        self._last_block(feed_forward_name(layer), last)
        return last

    def _last_block(self, name: str, last: torch.Tensor) -> None:
        with self._window.block(name) as weights:
            self._reduce.expect(len(last))
            with self._timeline.span("compute", name):
                output = self._model.feed_forward(weights, last)
            with self._timeline.span("allreduce", name):
                total = self._reduce.sum(output)
        if total is not None:
            last += total
        self._progress.block(name)

    def _attention(self, layer: int, weights: Weights, chunk: _Chunk) -> torch.Tensor:
        return self._model.attention(weights, chunk.states, layer, chunk.span, self._cache)

    def _feed_forward(self, weights: Weights, chunk: _Chunk) -> torch.Tensor:
        return self._model.feed_forward(weights, chunk.states)

    def _score(self, hidden: torch.Tensor) -> torch.Tensor:
        scores, states = [], None
        for index in range(self._model.head_slices):
            with self._window.block(head_name(index)) as weights, self._timeline.span("compute", head_name(index)):
                if states is None:
                    states = self._model.final_norm(weights, hidden)
                scores.append(self._model.logits(weights, states)[0])
            self._progress.block(head_name(index))
        return torch.cat(scores)
