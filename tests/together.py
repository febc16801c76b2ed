"""All ranks of a split in one process, one after the other: the slow, obvious decoder, without MPI or window."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tpi_mpi.kernels.experts.record import Present
from tpi_mpi.kernels.fallback import Fallback
from tpi_mpi.kernels.kv_cache import pages_for
from tpi_mpi.model.blocks import Block, Kind
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.weights.embedding import Embedding
from tpi_mpi.weights.mapping import SlabFile
from tpi_mpi.weights.slabs.directory import slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab


class Together:
    """Computes every rank's partial of each block and adds them up, for one sequence."""

    def __init__(self, directory: Path, size: int, capacity: int = 64):
        self._stack = ExitStack()
        self.slabs = [read_slab(slab_path(directory, rank)) for rank in range(size)]
        self.files = [SlabFile(slab.path) for slab in self.slabs]
        for file in self.files:
            self._stack.callback(file.close)
        self.models = [
            ModelShard(slab.config, slab.partition, slab.rank, slab.kv_dtype, Fallback()) for slab in self.slabs
        ]
        self._pages = np.arange(pages_for(capacity))[None]
        self.caches = [model.new_cache(self._pages.size, capacity) for model in self.models]
        self.embedding = self._stack.enter_context(Embedding(self.slabs[0]))
        self.weights = [
            {name: file.map(extent).tensors for name, extent in slab.sweep.items()}
            for slab, file in zip(self.slabs, self.files, strict=True)
        ]

    def __enter__(self) -> "Together":
        return self

    def __exit__(self, *exception) -> None:
        self._stack.close()

    def forward(self, token_ids: Sequence[int], start: int) -> np.ndarray:
        """The logits (vocab_size,) of the token that follows the tokens at the positions from ``start`` on."""
        hidden = self.embedding(token_ids)
        count = len(token_ids)
        segments = self.models[0].segments(self._pages, [0], [start], [count], [start + count])
        ranks = list(zip(self.models, self.weights, self.caches, strict=True))
        logits = []
        for block in self.models[0].blocks:
            if block.kind is Kind.HEAD:
                logits.append(self._head(block.name, hidden[-1:]))
                continue
            partials = [
                model.attention(weights[block.name], hidden, block.layer, segments, cache)
                if block.kind is Kind.ATTENTION
                else self._mixed(rank, block, hidden)
                if block.kind is Kind.ROUTER
                else model.feed_forward(weights[block.name], hidden)
                for rank, (model, weights, cache) in enumerate(ranks)
            ]
            hidden = hidden + sum(partials)
        return np.concatenate(logits)

    def _mixed(self, rank: int, block: Block, hidden: np.ndarray) -> np.ndarray:
        """The partial of the experts that a router chooses."""
        mixture = self.models[rank].mixture(self.weights[rank][block.name], hidden)
        for number in mixture.wanted:
            own = self.slabs[rank].experts[block.layer]
            record = own.record(number)
            stored = np.fromfile(self.slabs[rank].path, np.uint8, record.nbytes, offset=int(own.offsets[number]))
            mixture.add([Present(number, record, stored.ctypes.data)])
        return mixture.result()

    def _head(self, name: str, last: np.ndarray) -> np.ndarray:
        """The logits of one slice of the vocabulary."""
        model, weights = self.models[0], self.weights[0]
        first = next(block.name for block in model.blocks if block.kind is Kind.HEAD)
        return model.logits(weights[name], model.final_norm(weights[first], last))[0]

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[list[int], np.ndarray]:
        """The continuation's token ids, and the log-probabilities of all tokens at each step."""
        ids, logprobs, start = list(prompt), [], 0
        for _ in range(count):
            logprobs.append(log_softmax(self.forward(ids[start:], start)))
            ids.append(int(logprobs[-1].argmax()))
            start = 0 if self.models[0].rope.restarts_at(len(ids)) else len(ids) - 1
        return ids[len(prompt) :], np.stack(logprobs)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
