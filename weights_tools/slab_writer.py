"""One slab being written: blocks in order, tensors in order, bytes in order."""

import errno
import os
from collections.abc import Mapping

import numpy as np
import torch
import xxhash

from tpi_mpi.blocks import EMBEDDING
from tpi_mpi.errors import UserError
from tpi_mpi.slabs import BlockExtent, Slab, TensorExtent, seal


class SlabWriter:
    """Fills a slab that was laid out, through its file descriptor, and takes the checksums on the way.

    For each block :meth:`begin` it, :meth:`append` the pieces of its tensors in their order, and :meth:`end` it.

    checksums: of the blocks that are complete, by name.
    """

    def __init__(self, slab: Slab):
        self.slab = slab
        self.checksums: dict[str, str] = {}
        self._descriptor = os.open(slab.path, os.O_RDWR)
        self._row_checksums: list[int] = []

    def begin(self, name: str) -> None:
        self._extent: BlockExtent = self.slab.blocks[name]
        self._tensors = {tensor.name: tensor for tensor in self._extent.tensors}
        self._tensor: TensorExtent | None = None
        self._position = self._extent.offset
        self._hasher = xxhash.xxh3_64()

    def append(self, tensor_name: str, piece: torch.Tensor) -> None:
        """Writes the next rows of this rank's share of a tensor, in the tensor's stored dtype."""
        tensor = self._tensors[tensor_name]
        if tensor is not self._tensor:
            self._pad(tensor)
        data = piece.to(getattr(torch, tensor.dtype)).contiguous().view(torch.uint8).numpy()
        if self._extent.name == EMBEDDING:
            self._row_checksums += [xxhash.xxh3_64_intdigest(row) for row in data]
        self._write(data.data)

    def _pad(self, tensor: TensorExtent) -> None:
        """Goes on to the next tensor; what lies between was never written, so it reads as zeros."""
        end = self._tensor.offset + self._tensor.nbytes if self._tensor else self._extent.offset
        assert self._position == end, f"{self._tensor} is followed by another tensor before it is complete"
        self._hasher.update(bytes(tensor.offset - end))
        self._position, self._tensor = tensor.offset, tensor

    def _write(self, data: memoryview) -> None:
        data = data.cast("B")
        self._hasher.update(data)
        start = self._position
        while data:
            count = self._system(os.pwrite, data, self._position)
            data, self._position = data[count:], self._position + count
        if hasattr(os, "posix_fadvise"):
            # Has the system begin to write now what seal will wait for, and reuse those pages for what comes next.
            os.posix_fadvise(self._descriptor, start, self._position - start, os.POSIX_FADV_DONTNEED)

    def end(self) -> None:
        """The block is complete."""
        assert self._position == self._extent.offset + self._extent.nbytes, f"{self._extent.name} is not complete"
        self.checksums[self._extent.name] = self._hasher.hexdigest()

    def checksum_on_disk(self, name: str) -> str:
        """The checksum of what the file holds of a block now."""
        extent = self.slab.blocks[name]
        hasher, position, end = xxhash.xxh3_64(), extent.offset, extent.offset + extent.nbytes
        while position < end:
            data = os.pread(self._descriptor, min(end - position, 16 * 1024**2), position)
            if not data:
                break
            hasher.update(data)
            position += len(data)
        return hasher.hexdigest()

    def seal(self, source_digest: str, links: Mapping[str, str]) -> None:
        """Puts the checksums into the header and everything on the disk. The writer is closed afterwards."""
        os.close(self._descriptor)
        self._descriptor = -1
        rows = np.array(self._row_checksums, dtype=np.uint64) if EMBEDDING in self.slab.blocks else None
        checksums = {name: checksum for name, checksum in self.checksums.items() if name not in links}
        seal(self.slab, checksums, source_digest, rows)
        self._descriptor = os.open(self.slab.path, os.O_RDWR)
        self._system(os.fsync)
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _system(self, call, *arguments):
        try:
            return call(self._descriptor, *arguments)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"the disk is full while {self.slab.path} is written; free some space and split again"
                ) from None
            raise
