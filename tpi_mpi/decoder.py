"""One sweep over all blocks, in step on every rank."""

from collections.abc import Callable, Iterator

import torch

from tpi_mpi.allreduce import Allreduce
from tpi_mpi.blocks import attention_name, feed_forward_name, head_name
from tpi_mpi.cache import KVCache
from tpi_mpi.model import ModelShare, Span, Weights
from tpi_mpi.progress import NoProgress, SweepProgress
from tpi_mpi.steps import Step, Steps
from tpi_mpi.timeline import Timeline
from tpi_mpi.units import MIB
from tpi_mpi.window import SlidingWindow

# A prompt passes through a block in chunks, which bounds the memory of activations: of at most so many tokens, and
# bytes of hidden states. Products of 128 rows run at 95 percent of the speed of larger ones.
_CHUNK_ROWS, _CHUNK_BYTES = 256, 4 * MIB


def chunk_rows(hidden_size: int) -> int:
    """Tokens of a prompt that pass through a block together."""
    return max(16, min(_CHUNK_ROWS, _CHUNK_BYTES // (4 * hidden_size) // 16 * 16))


class Decoder:
    """Runs hidden states through the model: rank 0 leads with :meth:`forward`, the others :meth:`follow`.

    For each block, every rank computes its partial on its own heads or columns, the partials are summed over the
    ranks, and the sum is added to the hidden states, which so are the same everywhere. A prompt is taken block by
    block: all its chunks pass through one block before the next, so that each block is fetched once.

    chunk: tokens of a chunk.
    """

    def __init__(
        self,
        model: ModelShare,
        window: SlidingWindow,
        cache: KVCache,
        allreduce: Allreduce,
        steps: Steps,
        timeline: Timeline,
        progress: SweepProgress | NoProgress,
        chunk: int,
    ):
        self._model = model
        self._window = window
        self._cache = cache
        self._allreduce = allreduce
        self._steps = steps
        self._timeline = timeline
        self._progress = progress
        self._chunk = chunk

    def forward(self, hidden: torch.Tensor, start: int) -> torch.Tensor:
        """On rank 0: the scores (vocab_size,) of the token that follows.

        hidden: (T, hidden_size), the embeddings of the tokens at the positions from ``start`` on; overwritten.
        """
        step = Step(start, len(hidden))
        self._steps.send(step, hidden)
        with self._progress.sweep():
            self._sweep(step, hidden)
            return self._score(hidden[-1:])

    def follow(self) -> None:
        """On the other ranks: takes part in every sweep until rank 0 calls :meth:`stop`."""
        while received := self._steps.receive():
            with self._progress.sweep():
                self._sweep(*received)

    def stop(self) -> None:
        """On rank 0: lets the others go."""
        self._steps.stop()

    def _sweep(self, step: Step, hidden: torch.Tensor) -> None:
        model, cache = self._model, self._cache
        spans = [model.span(start, count, step.length) for start, count in self._chunks(step)]
        for layer in range(model.config.num_hidden_layers):

            def attention(weights: Weights, states: torch.Tensor, span: Span, layer=layer) -> torch.Tensor:
                return model.attention(weights, states, layer, span, cache)

            def feed_forward(weights: Weights, states: torch.Tensor, span: Span) -> torch.Tensor:
                return model.feed_forward(weights, states)

            self._block(attention_name(layer), attention, hidden, spans)
            self._block(feed_forward_name(layer), feed_forward, hidden, spans)

    def _block(self, name: str, compute: Callable, hidden: torch.Tensor, spans: list[Span]) -> None:
        """Adds the block's output to the hidden states, a chunk at a time."""
        with self._window.block(name) as weights:
            for span, states in zip(spans, hidden.split(self._chunk), strict=True):
                with self._timeline.span("compute", name):
                    partial = compute(weights, states, span)
                with self._timeline.span("allreduce", name):
                    states += self._allreduce.sum(partial)
        self._progress.block(name)

    def _score(self, hidden: torch.Tensor) -> torch.Tensor:
        scores, states = [], None
        for index in range(self._model.head_slices):
            with self._window.block(head_name(index)) as weights, self._timeline.span("compute", head_name(index)):
                if states is None:
                    states = self._model.final_norm(weights, hidden)
                scores.append(self._model.logits(weights, states)[0])
            self._progress.block(head_name(index))
        return torch.cat(scores)

    def _chunks(self, step: Step) -> Iterator[tuple[int, int]]:
        """The step's positions in chunks, each as (start, count)."""
        for start in range(step.start, step.length, self._chunk):
            yield start, min(self._chunk, step.length - start)
