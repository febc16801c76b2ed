"""Rows of the embedding, read from the slab as tokens need them."""

import os
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import torch
import xxhash

from tpi_mpi.common.errors import TpiError
from tpi_mpi.common.options import DEFAULT_TIMEOUT
from tpi_mpi.model import names
from tpi_mpi.model.blocks import EMBEDDING, Kind, shard_blocks
from tpi_mpi.weights.disk_threads import DiskThreads
from tpi_mpi.weights.slab import Slab, TensorExtent


class Embedding:
    """Looks up rows without keeping the matrix, or any row, in memory. A context manager.

    A tied model has no separate embedding: its rows are those of the output head's slices. Their checksums are checked
    with the head's blocks, before the first token; the rows of a separate embedding are checked when first read.
    Rows are read, not mapped: mapped pages would stay resident, and an unreadable one would kill the process.

    patience: seconds after which a disk that delivers nothing is an error.
    """

    def __init__(self, slab: Slab, patience: float = DEFAULT_TIMEOUT):
        self._matrices = _matrices(slab)
        self._starts = _starts(self._matrices)
        self._dtype = getattr(torch, self._matrices[0].dtype)
        self._row_bytes = self._matrices[0].shape[1] * self._dtype.itemsize
        self._checksums = slab.row_checksums
        self._path = slab.path
        self._checked: set[int] = set()
        self._descriptor = os.open(slab.path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):  # keep the kernel from reading ahead
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedding")
        self._disk = DiskThreads(self._thread, f"the embedding in slab {slab.path}", patience)

    def __enter__(self) -> "Embedding":
        return self

    def __exit__(self, error_type, *exception) -> None:
        self._thread.shutdown(wait=error_type is None, cancel_futures=True)
        if error_type is None:  # else the thread may still read
            os.close(self._descriptor)

    def __call__(self, token_ids: Sequence[int]) -> torch.Tensor:
        """The embeddings of T tokens, (T, D) in float32.

        Raises TpiError if a row cannot be read, or if its bytes were altered; DiskHung if the disk delivers nothing.
        """
        rows = self._disk.run(self._read, token_ids)
        return torch.frombuffer(rows, dtype=self._dtype).view(len(token_ids), -1).float()

    def _read(self, token_ids: Sequence[int]) -> bytearray:
        return bytearray().join(self._row(token_id) for token_id in token_ids)

    def _row(self, token_id: int) -> bytes:
        index = bisect_right(self._starts, token_id) - 1
        offset = self._matrices[index].offset + (token_id - self._starts[index]) * self._row_bytes
        try:
            row = os.pread(self._descriptor, self._row_bytes, offset)
        except OSError as error:
            raise self._trouble(token_id, f"cannot be read: {error.strerror}") from None
        if len(row) < self._row_bytes:
            raise self._trouble(token_id, "cannot be read: the file ends too early")
        if self._checksums is not None and token_id not in self._checked:
            self._check(token_id, row)
        self._disk.patience.moved()
        return row

    def _check(self, token_id: int, row: bytes) -> None:
        if xxhash.xxh3_64_intdigest(row) != int(self._checksums[token_id]):
            altered = "does not match its checksum: its bytes were altered; copy the slab again or split again"
            raise self._trouble(token_id, altered)
        self._checked.add(token_id)

    def _trouble(self, token_id: int, what: str) -> TpiError:
        return TpiError(f"row {token_id} of the embedding in slab {self._path} {what}")


def _matrices(slab: Slab) -> list[TensorExtent]:
    """The tensors that hold the rows of the embedding, in the order of token ids."""
    kind, module = (Kind.EMBEDDING, names.EMBED_TOKENS) if EMBEDDING in slab.blocks else (Kind.HEAD, names.LM_HEAD)
    blocks = [block.name for block in shard_blocks(slab.config, slab.partition, slab.rank) if block.kind == kind]
    return [slab.blocks[name].tensor(names.weight_of(module)) for name in blocks]


def _starts(matrices: Sequence[TensorExtent]) -> list[int]:
    """The first token id of each matrix."""
    return list(accumulate((matrix.shape[0] for matrix in matrices[:-1]), initial=0))
