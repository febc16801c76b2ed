"""Rows of the embedding, read from the slab as tokens touch them."""

from bisect import bisect_right
from collections.abc import Sequence

import torch
import xxhash

from tpi_mpi.blocks import EMBEDDING, head_name
from tpi_mpi.errors import TpiError
from tpi_mpi.mapping import SlabFile
from tpi_mpi.slabs import Slab


class Embedding:
    """Looks up rows without ever holding the whole matrix in memory.

    A tied model keeps no embedding of its own: its rows are those of the output head's slices. Their checksums are
    checked with the head's blocks, before the first token; an embedding's own rows are checked when first touched.
    A context manager.
    """

    def __init__(self, slab: Slab):
        if EMBEDDING in slab.blocks:
            names, starts = [EMBEDDING], [0]
        else:
            names = [head_name(index) for index in range(len(slab.partition.vocabulary))]
            starts = [start for start, _ in slab.partition.vocabulary]
        self._file = SlabFile(slab.path)
        self._blocks = [self._file.map(slab.blocks[name]) for name in names]
        for block in self._blocks:
            block.expect_random_access()
        self._matrices = [list(block.tensors.values())[-1] for block in self._blocks]
        self._starts = starts
        self._checksums = slab.row_checksums
        self._path = slab.path
        self._checked: set[int] = set()

    def __enter__(self) -> "Embedding":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    def __call__(self, token_ids: Sequence[int]) -> torch.Tensor:
        """The embeddings of T tokens, (T, D) in float32. Raises TpiError where a row's bytes were altered."""
        return torch.stack([self._row(token_id) for token_id in token_ids]).float()

    def _row(self, token_id: int) -> torch.Tensor:
        index = bisect_right(self._starts, token_id) - 1
        row = self._matrices[index][token_id - self._starts[index]]
        if self._checksums is not None and token_id not in self._checked:
            self._check(token_id, row)
        return row

    def _check(self, token_id: int, row: torch.Tensor) -> None:
        if xxhash.xxh3_64_intdigest(row.view(torch.uint8).numpy()) != int(self._checksums[token_id]):
            raise TpiError(
                f"row {token_id} of the embedding in slab {self._path} does not match its checksum: its bytes were "
                "altered; copy the slab again or split again"
            )
        self._checked.add(token_id)
