"""Slabs put together again, beside the checkpoint that they were split from."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import numpy as np

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.kernels.formats import TILE, Format
from tpi_mpi.kernels.operand import Operand
from tpi_mpi.kernels.packing import Rows, dequantize, scale_values, unpack
from tpi_mpi.model.blocks import Block, TensorSpec, all_blocks
from tpi_mpi.weights.mapping import MappedBlock, SlabFile
from tpi_mpi.weights.slabs.slab import Slab
from weights_tools.common.progress import bytes_bar
from weights_tools.splitting.checkpoint import Checkpoint
from weights_tools.splitting.conversion import convert, tensor_of
from weights_tools.verification.deviation import Deviation


def compare(slabs: Sequence[Slab], checkpoint: Checkpoint) -> dict[str, Deviation]:
    """How far tensors that were rounded to codes are from the checkpoint's, by the name of the source.

    All others must rejoin bit for bit. Raises TpiError, naming the tensor, for the first that does not, or that is
    farther from the checkpoint than rounding explains. Raises UserError if the slabs were split from a checkpoint with
    another config.json.
    """
    if checkpoint.config != slabs[0].config:
        raise UserError(f"the slabs were not split from {checkpoint.directory}: its config.json differs")
    total = sum(extent.nbytes for slab in slabs for extent in slab.extents)
    deviations: dict[str, Deviation] = defaultdict(Deviation)
    with bytes_bar(total, "rejoined") as bar, ExitStack() as stack:
        files = [stack.enter_context(closing(SlabFile(slab.path))) for slab in slabs]
        for block in all_blocks(slabs[0].config, slabs[0].partition):
            with _mapped(block, slabs, files) as held:
                for spec in block.tensors:
                    if not _agrees(spec, _shards(spec, slabs, held), checkpoint, deviations):
                        raise _difference(spec.source, slabs, checkpoint)
                bar.update(sum(mapped.extent.nbytes for mapped in held if mapped))
    for name, deviation in deviations.items():
        if deviation.is_too_large:
            raise _difference(name, slabs, checkpoint)
    return deviations


def _difference(name: str, slabs: Sequence[Slab], checkpoint: Checkpoint) -> TpiError:
    return TpiError(f"tensor {name} differs between the slabs in {slabs[0].path.parent} and {checkpoint.directory}")


@contextmanager
def _mapped(block: Block, slabs: Sequence[Slab], files: Sequence[SlabFile]) -> Iterator[list[MappedBlock | None]]:
    """What each rank holds of the block, mapped and in memory; None for a rank that holds nothing."""
    held = [
        file.map(slab.extent(block.name)) if slab.holds(block.name) else None
        for slab, file in zip(slabs, files, strict=True)
    ]
    present = [mapped for mapped in held if mapped]
    for mapped in present:
        mapped.populate()  # so that a page that the disk cannot deliver is an error, not a signal
    yield held
    for mapped in present:
        mapped.release()


class Shard:
    """One rank's shard of a tensor.

    bounds: its range of the axis that was cut. format: that it is stored in.
    """

    def __init__(self, spec: TensorSpec, slab: Slab, block: MappedBlock):
        self.axis, self.bounds = spec.axis, spec.shard(slab.partition, slab.rank)
        self._stored = block.tensors[spec.name]
        self._layout = block.extent.tensor(spec.name).layout
        self.format: Format = self._layout.format

    def overlap(self, first: int, count: int) -> tuple[slice, slice] | None:
        """Which of these rows of the whole tensor it has, and which of their columns; None if it has no row.

        The rows are counted from ``first``.
        """
        start, stop = self.bounds
        if self.axis == 1:
            return slice(0, count), slice(start, stop)
        low, high = max(start - first, 0), min(stop - first, count)
        return (slice(low, high), slice(None)) if low < high else None

    def rows(self, first: int, rows: slice) -> Rows:
        """Those that :meth:`overlap` names, as they are stored."""
        offset = first - (self.bounds[0] if self.axis == 0 else 0)
        low, high = rows.start + offset, rows.stop + offset
        if not isinstance(self._stored, Operand):
            return Rows(self._stored.stored[low:high])
        tiles = slice(low // TILE, -(-high // TILE))
        unpacked = unpack([part[tiles] for part in self._stored.parts], self._layout)
        return unpacked[low - tiles.start * TILE : high - tiles.start * TILE]

    def weights(self, rows: Rows) -> np.ndarray:
        """The numbers of stored rows, as :func:`_numbers` gives them."""
        return _numbers(rows, self.format, getattr(self._layout, "lead", 0))


def _shards(spec: TensorSpec, slabs: Sequence[Slab], held: Sequence[MappedBlock | None]) -> list[Shard]:
    pairs = zip(slabs, held, strict=True)
    return [Shard(spec, slab, mapped) for slab, mapped in pairs if spec.shard(slab.partition, slab.rank) is not None]


def _numbers(rows: Rows, format: Format, lead: int = 0) -> np.ndarray:
    """Dequantized weights or, if the format is not packed, the numbers as they are stored."""
    return dequantize(rows, format, lead) if format.packed else rows.values


def _agrees(
    spec: TensorSpec, shards: Sequence[Shard], checkpoint: Checkpoint, deviations: dict[str, Deviation]
) -> bool:
    """Whether a tensor is that of the checkpoint, or may be: if it was rounded, adds to the deviations."""
    name, source, stored = spec.source, checkpoint.formats[spec.source], shards[0].format
    rounded = stored.packed and stored != source
    first = 0
    for piece in checkpoint.pieces(name, *spec.rows):
        if rounded:
            _measure(shards, first, tensor_of(piece, source).float().numpy(), deviations[name])
        elif differs(shards, first, _numbers(convert(piece, source, stored, name), stored)):
            return False
        first += len(piece)
    return covers(spec, shards)


def covers(spec: TensorSpec, shards: Sequence[Shard]) -> bool:
    """Whether everything is in some shard."""
    covered = np.zeros(spec.shape[spec.axis], bool)
    for shard in shards:
        covered[slice(*shard.bounds)] = True
    return bool(covered.all())


def differs(shards: Sequence[Shard], first: int, expected: np.ndarray) -> bool:
    """Whether any shard differs, bit for bit, from these rows of the whole tensor, which begin with row ``first``."""
    for shard in shards:
        where = shard.overlap(first, len(expected))
        if where:
            theirs = expected[where] if expected.ndim > 1 else expected[where[0]]
            if not np.array_equal(_bits(shard.weights(shard.rows(first, where[0]))), _bits(theirs)):
                return True
    return False


def _bits(numbers: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(numbers).view(f"<u{numbers.itemsize}")


def _measure(shards: Sequence[Shard], first: int, exact: np.ndarray, deviation: Deviation) -> None:
    for shard in shards:
        where = shard.overlap(first, len(exact))
        if where:
            rows = shard.rows(first, where[0])
            deviation.add(shard.weights(rows), exact[where], scale_values(rows.scales, shard.format))
