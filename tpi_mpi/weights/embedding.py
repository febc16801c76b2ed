"""Rows of the embedding, read from the slab as tokens need them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import xxhash

from tpi_mpi.common.errors import TpiError
from tpi_mpi.common.options.machine import DEFAULT_TIMEOUT
from tpi_mpi.kernels.formats import FLOATS
from tpi_mpi.kernels.numbers import widen
from tpi_mpi.model.blocks import EMBEDDING
from tpi_mpi.weights.disk_threads import DiskThreads
from tpi_mpi.weights.slabs.slab import Slab


class Embedding:
    """Looks up rows without keeping the matrix, or any row, in memory. A context manager.

    A row is compared with its checksum when it is first read. Rows are read, not mapped: mapped pages would stay
    resident, and an unreadable one would kill the process.

    patience: seconds after which a disk that delivers nothing is an error.
    """

    def __init__(self, slab: Slab, patience: float = DEFAULT_TIMEOUT):
        matrix = slab.blocks[EMBEDDING].tensors[0]
        self._offset = matrix.offsets[0]
        self._dtype = matrix.layout.dtype
        self._row_bytes = matrix.layout.shape[1] * np.dtype(FLOATS[self._dtype]).itemsize
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

    def __call__(self, token_ids: Sequence[int]) -> np.ndarray:
        """The embeddings of T tokens, (T, D) in float32; they may be overwritten.

        Raises TpiError if a row cannot be read, or if its bytes were altered; DiskHung if the disk delivers nothing.
        """
        rows = self._disk.run(self._read, token_ids)
        return widen(np.frombuffer(rows, FLOATS[self._dtype]).reshape(len(token_ids), -1), self._dtype)

    def _read(self, token_ids: Sequence[int]) -> bytearray:
        return bytearray().join(self._row(token_id) for token_id in token_ids)

    def _row(self, token_id: int) -> bytes:
        try:
            row = os.pread(self._descriptor, self._row_bytes, self._offset + token_id * self._row_bytes)
        except OSError as error:
            raise self._trouble(token_id, f"cannot be read: {error.strerror}") from None
        if len(row) < self._row_bytes:
            raise self._trouble(token_id, "cannot be read: the file ends too early")
        if token_id not in self._checked:
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
