"""All ranks of a split in one process, one after the other: the slow, obvious decoder, without MPI or window."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from tpi_mpi.blocks import attention_name, feed_forward_name, head_name
from tpi_mpi.embedding import Embedding
from tpi_mpi.mapping import SlabFile
from tpi_mpi.model import ModelShare
from tpi_mpi.slabs import Slab, slab_path


class Together:
    """Computes every rank's partial of each block and adds them up, for one text."""

    def __init__(self, directory: Path, size: int, capacity: int = 64):
        self._stack = ExitStack()
        self.slabs = [Slab.open(slab_path(directory, rank)) for rank in range(size)]
        self.files = [SlabFile(slab.path) for slab in self.slabs]
        for file in self.files:
            self._stack.callback(file.close)
        self.models = [ModelShare(slab.config, slab.partition, slab.rank) for slab in self.slabs]
        dtype = getattr(torch, self.slabs[0].dtype)
        self.caches = [model.new_cache(capacity, dtype) for model in self.models]
        self.embedding = self._stack.enter_context(Embedding(self.slabs[0]))
        self.weights = [
            {name: file.map(extent).tensors for name, extent in slab.sweep.items()}
            for slab, file in zip(self.slabs, self.files, strict=True)
        ]

    def __enter__(self) -> "Together":
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()

    def forward(self, token_ids: Sequence[int], start: int) -> torch.Tensor:
        """The scores (vocab_size,) of the token that follows the tokens at the positions from ``start`` on."""
        hidden = self.embedding(token_ids)
        span = self.models[0].span(start, len(token_ids), start + len(token_ids))
        ranks = list(zip(self.models, self.weights, self.caches, strict=True))
        for layer in range(self.slabs[0].config.num_hidden_layers):
            name = attention_name(layer)
            hidden = hidden + sum(
                model.attention(weights[name], hidden, layer, span, cache) for model, weights, cache in ranks
            )
            name = feed_forward_name(layer)
            hidden = hidden + sum(model.feed_forward(weights[name], hidden) for model, weights, _ in ranks)
        model, weights, _ = ranks[0]
        states = model.final_norm(weights[head_name(0)], hidden[-1:])
        return torch.cat([model.logits(weights[head_name(i)], states)[0] for i in range(model.head_slices)])

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[list[int], torch.Tensor]:
        """The continuation's token ids, and the log-probabilities of all tokens at each step."""
        ids, scores, start = list(prompt), [], 0
        for _ in range(count):
            scores.append(self.forward(ids[start:], start).log_softmax(-1))
            ids.append(int(scores[-1].argmax()))
            start = 0 if self.models[0].rope.restarts_at(len(ids)) else len(ids) - 1
        return ids[len(prompt) :], torch.stack(scores)
