"""Cuts one source of tensors into the slabs of all ranks, in one pass."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from math import prod
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tpi_mpi.common.errors import UserError, say
from tpi_mpi.common.files import partial_name, publish
from tpi_mpi.kernels.formats import STORED_AS
from tpi_mpi.kernels.linear import compiling_announced
from tpi_mpi.kernels.quantization import prepare_search
from tpi_mpi.model.blocks import Block, TensorSpec, all_blocks, shard_blocks
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slabs.directory import Manifest, slab_path
from tpi_mpi.weights.slabs.hdf5 import create, read_slab
from tpi_mpi.weights.slabs.slab import empty_slab
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.common.ahead import ahead, mapped
from weights_tools.common.progress import bytes_bar
from weights_tools.common.target_directory import JOURNAL, check_room
from weights_tools.splitting.conversion import convert
from weights_tools.splitting.digests import Digests
from weights_tools.splitting.journal import Journal
from weights_tools.splitting.pieces import Piece, Source, pieces_of
from weights_tools.splitting.slab_writer import SlabWriter

# The most pieces that are converted at once; each takes a hundred megabytes or so meanwhile.
_MOST_CONVERTED = 4


def cut(
    source: Source,
    target: Path,
    partition: Partition,
    formats: StoredFormats | None = None,
    links: Mapping[str, str] | None = None,
    *,
    title: str = "split",
    beside: int = 0,
    check: Callable[[str], None] = lambda digest: None,
) -> None:
    """Writes the slabs of all ranks and their manifest into the directory ``target``.

    Every byte of the source is read once. The slabs get their names when all of them are complete and on the disk, and
    the manifest is written last. If an earlier call with the same arguments was interrupted, this one resumes it.

    formats: of the slabs' tensors; None for each tensor's own.
    links: blocks that become hard links to earlier ones, by name; their own tensors are never read.
    title: of the progress bar.
    beside: bytes that will be written to the same disk afterwards, for which there must be room too.
    check: is called with the source's digest, and may raise an error, before anything gets its name.
    Raises UserError if the disk has too little room, or a weight cannot be stored in the format asked for.
    """
    torch.set_num_threads(1)  # pieces are converted side by side, and idle threads would spin
    with ExitStack() as stack:
        cutting = _Cutting(source, target, partition, formats or StoredFormats(source.formats), links or {}, stack)
        cutting.check_room(beside)
        cutting.run(title)
        cutting.complete(check)


class _Cutting:
    """One call of :func:`cut`."""

    def __init__(self, source, target, partition, formats, links, stack: ExitStack):
        self.source, self.target, self.partition, self.links = source, target, partition, links
        self.formats: StoredFormats = formats
        self.blocks = [block for block in all_blocks(source.config, partition) if block.name not in links]
        self.digests = Digests()
        job = {
            "source": source.fingerprint(),
            "config": source.config.keys,
            "partition": partition.to_json(),
            "formats": formats.to_json(),
            "links": links,
        }
        self.journal = Journal(target / JOURNAL, job)
        stack.callback(self.journal.close)
        if not self.journal.resumed:
            remove_partial_slabs(target)
        self.threads = stack.enter_context(ThreadPoolExecutor(max_workers=2))  # a third gained nothing
        self.writers = [self.writer(rank) for rank in range(partition.size)]
        for writer in self.writers:
            stack.callback(writer.close)

    def run(self, title: str) -> None:
        """Writes all blocks that are not written yet."""
        done = self.trusted()
        self.prepare()
        sizes = {block.name: sum(self.nbytes(spec) for spec in block.tensors) for block in self.blocks}
        total, resumed = sum(sizes.values()), sum(sizes[name] for name in done)
        with bytes_bar(total, title, resumed) as bar:
            pieces = pieces_of(self.source, [block for block in self.blocks if block.name not in done], self.digests)
            converted = mapped(self.converted, ahead(pieces), min(_MOST_CONVERTED, os.cpu_count() or 1))
            for block, own in groupby(converted, key=lambda piece: piece.block):
                self.cut_block(block, own, bar)

    def writer(self, rank: int) -> SlabWriter:
        """The writer of one rank's slab, which is laid out anew unless an interrupted split left it."""
        path = slab_path(self.target, rank)
        slab = empty_slab(partial_name(path), self.source.config, self.partition, rank, self.formats)
        if self.journal.entries:
            try:
                return SlabWriter(read_slab(slab.path), self.threads)
            except UserError:
                self.journal.entries.clear()
        blocks = shard_blocks(self.source.config, self.partition, rank)
        return SlabWriter(create(slab, blocks, self.formats, self.links), self.threads)

    def check_room(self, beside: int) -> None:
        needed = sum(writer.slab.nbytes for writer in self.writers)
        present = sum(writer.slab.path.stat().st_blocks * 512 for writer in self.writers)
        check_room(self.target, needed - present + beside, shutil.disk_usage(self.target).free)

    def trusted(self) -> set[str]:
        """The blocks that the journal claims and the slabs indeed hold: only layers, up to the first that fails."""
        done: set[str] = set()
        for block in self.blocks:
            entry = self.journal.entries.get(block.name)
            if block.layer is None or entry is None or not self.holds(block.name, entry["checksums"]):
                break
            done.add(block.name)
            for source, digest in entry["digests"].items():
                self.digests.take(source, digest)
        if done:
            say(f"an interrupted split is resumed: {len(done)} of {len(self.blocks)} blocks are done")
        return done

    def holds(self, name: str, checksums: list[str | None]) -> bool:
        """Whether every slab holds its part of a block. checksums: one per rank, None for a rank without a part."""
        for writer, checksum in zip(self.writers, checksums, strict=True):
            if checksum is not None:
                if writer.checksum_on_disk(name) != checksum:
                    return False
                writer.checksums[name] = checksum
        return True

    def prepare(self) -> None:
        """Has what quantizes compiled before a bar is on the screen; says so if it takes a while."""
        specs = [spec for block in self.blocks for spec in block.tensors]
        changed = [spec for spec in specs if self.formats.of(spec) != self.source.formats[spec.source]]
        if any(self.formats.of(spec).packed for spec in changed):
            line = "the search for scales is compiled for this CPU, which happens once and takes some seconds"
            with compiling_announced(lambda: say(line)):
                prepare_search()

    def nbytes(self, spec: TensorSpec) -> int:
        return prod(spec.shape) * np.dtype(STORED_AS[self.source.formats[spec.source].dtype]).itemsize

    def converted(self, piece: Piece) -> Piece:
        """Before it is cut, so that the weights are the same for any number of ranks."""
        name = piece.spec.source
        return replace(piece, rows=convert(piece.rows, self.source.formats[name], self.formats.of(piece.spec), name))

    def cut_block(self, block: Block, pieces: Iterable[Piece], bar: tqdm) -> None:
        """Writes one block to all slabs that hold a part of it, and enters it in the journal."""
        holders = [writer for writer in self.writers if writer.slab.holds(block.name)]
        for writer in holders:
            writer.begin(block.name)
        for piece in pieces:
            for writer in holders:
                own = piece.cut(self.partition, writer.slab.rank, self.formats.of(piece.spec).group)
                if own:
                    writer.append(piece.spec.name, own)
            bar.update(piece.source_nbytes)
        for writer in holders:
            writer.end()
        checksums = [writer.checksums.get(block.name) for writer in self.writers]
        self.journal.add(block.name, checksums, {spec.source: self.digests.of(spec.source) for spec in block.tensors})

    def complete(self, check: Callable[[str], None]) -> None:
        """Gives everything its final name: the slabs first, the manifest last."""
        digest = self.digests.whole()
        check(digest)
        for writer in self.writers:
            writer.seal(digest, self.links)
        for writer in self.writers:
            publish(slab_path(self.target, writer.slab.rank))
        sizes = tuple(slab_path(self.target, rank).stat().st_size for rank in range(self.partition.size))
        slab = self.writers[0].slab
        Manifest(
            model=self.source.name,
            model_type=self.source.config.model_type,
            dtype=slab.dtype,
            source_digest=digest,
            ranks=self.partition.size,
            slab_bytes=sizes,
            ignored_keys=tuple(self.source.ignored_keys),
        ).save(self.target)
        self.journal.remove()


def remove_partial_slabs(target: Path) -> None:
    """Removes what another job's interrupted split left."""
    for path in target.glob(partial_name(Path("rank[0-9]*.h5")).name):
        path.unlink()
