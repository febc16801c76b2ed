"""Slabs compared with their checksums."""

from collections.abc import Sequence
from contextlib import closing

import xxhash

from tpi_mpi.common.errors import TpiError
from tpi_mpi.kernels.operand import Vector
from tpi_mpi.model.blocks import EMBEDDING
from tpi_mpi.weights.mapping import SlabFile
from tpi_mpi.weights.slabs.slab import Slab
from weights_tools.common.progress import bytes_bar


def check_blocks(slabs: Sequence[Slab]) -> None:
    """Raises TpiError for the first block or row of the embedding that differs from its checksum."""
    total = sum(slab.nbytes for slab in slabs)
    with bytes_bar(total, "checksums") as bar:
        for slab in slabs:
            with closing(SlabFile(slab.path)) as file:
                for extent in {extent.offset: extent for extent in slab.extents}.values():
                    block = file.map(extent, verify=True)
                    block.populate()
                    if extent.name == EMBEDDING:
                        _check_rows(slab, *block.tensors.values())
                    block.release()
                    bar.update(extent.nbytes)


def _check_rows(slab: Slab, matrix: Vector) -> None:
    for row, checksum in zip(matrix.stored, slab.row_checksums, strict=True):
        if xxhash.xxh3_64_intdigest(row) != int(checksum):
            raise TpiError(f"slab {slab.path} has a wrong checksum for a row of its embedding; split again")
