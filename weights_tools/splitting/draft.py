"""A draft: slabs of the same model in fewer bits, inside the directory of the slabs for which it will draft tokens."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.files import sync_directory
from tpi_mpi.kernels.formats import Format
from tpi_mpi.model.blocks import all_blocks
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slabs.directory import DRAFT, MANIFEST, Manifest, open_slabs
from tpi_mpi.weights.slabs.slab import empty_slab, planned_slab
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.common.target_directory import JOURNAL, prepare_for_slabs, write_small_files
from weights_tools.splitting.checkpoint import Checkpoint
from weights_tools.splitting.cut import cut


@dataclass(frozen=True)
class Draft:
    """A draft that is to be written.

    Its tensors are cut exactly as those of the slabs, so that it can use the keys and values of the exact model: where
    a cut divides a group, its scale is stored on both ranks.

    slabs: the directory of the slabs. partition, exact: of these, and the formats of their tensors.
    formats: of the draft's tensors.
    """

    checkpoint: Checkpoint
    slabs: Path
    partition: Partition
    exact: StoredFormats
    formats: StoredFormats

    @property
    def nbytes(self) -> int:
        """Bytes of its weights on all ranks together."""
        config, ranks = self.checkpoint.config, range(self.partition.size)
        return sum(planned_slab(config, self.partition, rank, self.formats).nbytes for rank in ranks)

    def check(self) -> None:
        """Raises UserError if it would be no smaller than the slabs, or its formats cannot be had."""
        own, exact = self._main_format(self.formats), self._main_format(self.exact)
        if _code_bits(own) >= _code_bits(exact):  # fewer scales make no difference that is worth a draft
            raise UserError(
                f"--with-draft {own.dtype} is for slabs with more bits a weight, but the layers of these are {exact}, "
                "and a draft would be no smaller; leave it out"
            )
        self.checkpoint.quantization.check_kept(all_blocks(self.checkpoint.config, self.partition), self.formats)

    def _main_format(self, formats: StoredFormats) -> Format:
        """That of most weights of the layers."""
        counts: Counter = Counter()
        for block in all_blocks(self.checkpoint.config, self.partition):
            for spec in block.tensors:
                if block.layer is not None and spec.multiplied:
                    counts[formats.of(spec)] += prod(spec.shape)
        return counts.most_common(1)[0][0]

    @property
    def alone_is_missing(self) -> bool:
        """Whether the slabs themselves are whole. Raises UserError if they are, but were split with other options."""
        if not (self.slabs / MANIFEST).is_file() or (self.slabs / JOURNAL).exists():
            return False
        if (self.slabs / DRAFT / MANIFEST).is_file():
            return False
        there = open_slabs(self.slabs)[0]
        config, digest = self.checkpoint.config, there.source_digest  # which the cut compares
        wanted = empty_slab(there.path, config, self.partition, there.rank, self.exact, digest).identity()
        for what, value in there.identity().items():
            if wanted[what] != value:
                raise UserError(
                    f"{self.slabs} holds slabs with another {what}; give the options that they were split with, "
                    "or --force to replace them"
                )
        return True

    def write(self, small_files: Mapping[str, bytes]) -> None:
        """Writes it beside slabs that are whole, or completes what an interrupted split has left of it."""
        target = self.slabs / DRAFT
        prepare_for_slabs(target, force=True)  # nothing else belongs there
        sync_directory(self.slabs)
        write_small_files(target, small_files)
        cut(self.checkpoint, target, self.partition, self.formats, title=DRAFT, check=self._check_digest)

    def _check_digest(self, digest: str) -> None:
        if digest != Manifest.load(self.slabs).source_digest:
            raise UserError(
                f"the weights in {self.checkpoint.directory} are not those that {self.slabs} was split from; "
                "give --force to split it again"
            )


def draft_formats(exact: StoredFormats, dtype: str, group: int, zero_points: bool) -> StoredFormats:
    """Those of a draft in a packed dtype, for slabs in the formats ``exact``: what is not packed is as in these."""
    return replace(StoredFormats.asked(exact.sources, dtype, None, group, zero_points), rest=exact.rest)


def _code_bits(format: Format) -> int:
    """Bits of a weight without its part of scales, which is less than one where this program chose the format."""
    return int(Format.of(format.dtype).bits)
