"""One slab as it is written: blocks in order, tensors in order, bytes in order."""

from collections.abc import Mapping
from concurrent.futures import Executor

import numpy as np
import xxhash

from tpi_mpi.kernels.formats import Tiled
from tpi_mpi.kernels.packing import Rows
from tpi_mpi.model.blocks import EMBEDDING
from tpi_mpi.weights.slabs.extents import PAGE, BlockExtent, TensorExtent
from tpi_mpi.weights.slabs.hdf5 import seal
from tpi_mpi.weights.slabs.slab import Slab
from weights_tools.splitting.staged_file import StagedFile
from weights_tools.splitting.tiles import Tiles

# Bytes for the buffers of all slabs together, and for one buffer at least and at most.
_BUFFERS = 64 * 1024**2
_LEAST, _MOST = 1024**2, 4 * 1024**2


class SlabWriter:
    """Fills a slab that has been laid out, and computes its checksums.

    For each block, call :meth:`begin`, then :meth:`append` with the pieces of its tensors in order, then :meth:`end`.

    threads: do the writing itself.
    checksums: of the complete blocks, by name.
    """

    def __init__(self, slab: Slab, threads: Executor):
        self.slab = slab
        self.checksums: dict[str, str] = {}
        own = _BUFFERS // slab.partition.size // PAGE * PAGE
        self._file = StagedFile(slab.path, min(max(own, _LEAST), _MOST), threads)
        self._row_checksums: list[int] = []

    def begin(self, name: str) -> None:
        self._extent: BlockExtent = self.slab.extent(name)
        self._tensors = {tensor.name: tensor for tensor in self._extent.tensors}
        self._tensor: TensorExtent | None = None
        self._tiles: Tiles | None = None
        self._position = self._extent.offset
        self._hasher = xxhash.xxh3_64()
        self._file.seek(self._extent.offset)

    def append(self, tensor_name: str, rows: Rows) -> None:
        """Writes the next rows of this rank's shard of a tensor, in the format that the slab stores it in."""
        tensor = self._tensors[tensor_name]
        if tensor is not self._tensor:
            self._next(tensor)
        for array in self._tiles.add(rows) if self._tiles else [rows.values]:
            self._add(array)
        if self._tiles:
            self._add_later_parts()
        if self._extent.name == EMBEDDING:
            self._row_checksums += [xxhash.xxh3_64_intdigest(row) for row in np.ascontiguousarray(rows.values)]

    def _next(self, tensor: TensorExtent) -> None:
        """Proceeds to the next tensor."""
        end = self._tensor.stop if self._tensor else self._extent.offset
        assert self._position == end, f"{self._tensor} is followed by another tensor before it is complete"
        self._tensor = tensor
        self._tiles = Tiles(tensor.layout) if isinstance(tensor.layout, Tiled) else None
        self._pad(tensor.offsets[0])

    def _add_later_parts(self) -> None:
        for offset, part in zip(self._tensor.offsets[1:], self._tiles.rest(), strict=False):
            self._pad(offset)
            self._add(part)

    def _pad(self, offset: int) -> None:
        """Zeros up to an offset in the file."""
        self._add(np.zeros(offset - self._position, np.uint8))

    def _add(self, array: np.ndarray) -> None:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._file.append(data)
        self._hasher.update(data)
        self._position += len(data)

    def end(self) -> None:
        """Completes the block."""
        if self._extent.padding and self._position == self._tensor.stop:
            self._pad(self._extent.stop)
        assert self._position == self._extent.stop, f"{self._extent.name} is not complete"
        self._file.finish()
        self.checksums[self._extent.name] = self._hasher.hexdigest()

    def checksum_on_disk(self, name: str) -> str | None:
        """The checksum of a block as the file holds it now; None if the disk cannot read it."""
        extent, hasher = self.slab.extent(name), xxhash.xxh3_64()
        try:
            with open(self.slab.path, "rb") as file:
                file.seek(extent.offset)
                left = extent.nbytes
                while data := file.read(min(left, _MOST)):
                    hasher.update(data)
                    left -= len(data)
        except OSError:
            return None
        return hasher.hexdigest()

    def seal(self, source_digest: str, links: Mapping[str, str]) -> None:
        """Writes the checksums into the header and syncs everything to disk. The writer is closed afterwards."""
        rows = np.array(self._row_checksums, dtype=np.uint64) if EMBEDDING in self.slab.blocks else None
        checksums = {name: checksum for name, checksum in self.checksums.items() if name not in links}
        self._file.sync()  # before HDF5 writes what may follow the last block on the same page
        self.close()
        seal(self.slab, checksums, source_digest, rows)

    def close(self) -> None:
        self._file.close()
