"""Slabs compared with their checksums and, rejoined, with the checkpoint that they were split from."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import xxhash

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.model.blocks import EMBEDDING, Block, TensorSpec, blocks_of
from tpi_mpi.weights.mapping import MappedBlock, SlabFile
from tpi_mpi.weights.slab import Slab
from weights_tools.common.progress import bytes_bar
from weights_tools.splitting.checkpoint import Checkpoint

Shards = Sequence[tuple[tuple[int, int], torch.Tensor]]
"""For each rank that holds a part of a tensor: its range of the axis that was cut, and its shard."""


def check_blocks(slabs: Sequence[Slab]) -> None:
    """Raises TpiError for the first block or row of the embedding that differs from its checksum."""
    total = sum(slab.nbytes for slab in slabs)
    with bytes_bar(total, "checksums") as bar, ExitStack() as stack:
        for slab in slabs:
            file = _open(slab, stack)
            for extent in {extent.offset: extent for extent in slab.blocks.values()}.values():
                block = file.map(extent, verify=True)
                block.populate()
                if extent.name == EMBEDDING:
                    _check_rows(slab, *block.tensors.values())
                block.release()
                bar.update(extent.nbytes)


def _check_rows(slab: Slab, matrix: torch.Tensor) -> None:
    for row, checksum in zip(matrix.view(torch.uint8).numpy(), slab.row_checksums, strict=True):
        if xxhash.xxh3_64_intdigest(row) != int(checksum):
            raise TpiError(f"slab {slab.path} has a wrong checksum for a row of its embedding; split again")


def compare(slabs: Sequence[Slab], checkpoint: Checkpoint) -> None:
    """Raises TpiError, naming the tensor, for the first that does not rejoin bit for bit.

    Raises UserError if the slabs were split from a checkpoint with another config.json.
    """
    if checkpoint.config != slabs[0].config:
        raise UserError(f"the slabs were not split from {checkpoint.directory}: its config.json differs")
    extents = [extent for slab in slabs for extent in slab.blocks.values()]
    total = sum(tensor.nbytes for extent in extents for tensor in extent.tensors)
    with bytes_bar(total, "rejoined") as bar, ExitStack() as stack:
        files = [_open(slab, stack) for slab in slabs]
        for block in blocks_of(slabs[0].config, slabs[0].partition):
            with _mapped(block, slabs, files) as held:
                for spec in block.tensors:
                    shards = _shards(spec, slabs, held)
                    _compare_tensor(spec, shards, checkpoint)
                    bar.update(sum(shard.nbytes for _, shard in shards))


def _open(slab: Slab, stack: ExitStack) -> SlabFile:
    file = SlabFile(slab.path)
    stack.callback(file.close)
    return file


@contextmanager
def _mapped(block: Block, slabs: Sequence[Slab], files: Sequence[SlabFile]) -> Iterator[list[MappedBlock | None]]:
    """What each rank holds of the block, mapped and in memory; None for a rank that holds nothing."""
    held = [
        file.map(slab.blocks[block.name]) if block.name in slab.blocks else None
        for slab, file in zip(slabs, files, strict=True)
    ]
    present = [mapped for mapped in held if mapped]
    for mapped in present:
        mapped.populate()  # so that a page that the disk cannot deliver is an error, not a signal
    yield held
    for mapped in present:
        mapped.release()


def _shards(spec: TensorSpec, slabs: Sequence[Slab], held: Sequence[MappedBlock | None]) -> Shards:
    ranges = (spec.shard(slab.partition, slab.rank) for slab in slabs)
    return [(own, mapped.tensors[spec.name]) for own, mapped in zip(ranges, held, strict=True) if own is not None]


def _compare_tensor(spec: TensorSpec, shards: Shards, checkpoint: Checkpoint) -> None:
    first = 0
    for piece in checkpoint.pieces(spec.source, *spec.rows):
        if differs(spec, shards, piece, first):
            raise TpiError(f"tensor {spec.source} differs between the slabs and {checkpoint.directory}")
        first += len(piece)


def differs(spec: TensorSpec, shards: Shards, piece: torch.Tensor, first: int) -> bool:
    """Whether any shard differs from the piece, bit for bit, or something is in no shard.

    piece: rows of the checkpoint's tensor, the first of which is the tensor's row ``first``.
    """
    covered = torch.zeros(spec.shape[spec.axis], dtype=torch.bool)
    for (start, stop), shard in shards:
        covered[start:stop] = True
        if spec.axis == 1:
            own, theirs = shard[first : first + len(piece)], piece[:, start:stop]
        else:
            low, high = max(start, first), min(stop, first + len(piece))
            if low >= high:
                continue
            own, theirs = shard[low - start : high - start], piece[low - first : high - first]
        if not torch.equal(_bits(own), _bits(theirs.to(own.dtype))):
            return True
    return not bool(covered.all())


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.element_size()])
