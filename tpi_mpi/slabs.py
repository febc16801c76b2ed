"""The slab: an HDF5 file with one rank's share of every layer, each block one byte range of the file.

A slab holds one group a block, and in it one contiguous, page-aligned dataset a tensor, in the order of use.
bfloat16 is kept as uint16; the attribute ``dtype`` of a dataset tells. Everything is located here with HDF5 and
then read through the file descriptor (:mod:`tpi_mpi.mapping`), because HDF5 serialises its calls on one lock.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import h5py
import numpy as np

from tpi_mpi.blocks import EMBEDDING, Block, blocks_of
from tpi_mpi.config import ModelConfig
from tpi_mpi.errors import UserError
from tpi_mpi.partition import Partition

FORMAT = "tpi_mpi slab"
FORMAT_VERSION = 1
PAGE = 4096

STORED_AS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
ITEMSIZE = {dtype: np.dtype(stored).itemsize for dtype, stored in STORED_AS.items()}

# Room for the metadata of one dataset or group ahead of the data, so that no metadata lands between tensors.
_METADATA_BYTES = 8192
_NO_CHECKSUM = "0" * 16
_NO_DIGEST = "0" * 32
_ROW_CHECKSUMS = "row_checksums"


def slab_path(directory: Path, rank: int) -> Path:
    return directory / f"rank{rank:04d}.h5"


@dataclass(frozen=True)
class TensorExtent:
    """Where a tensor lies in the slab: ``offset`` bytes from the start of the file, in C order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class BlockExtent:
    """Where a block lies in the slab: one byte range, zeros between its tensors.

    checksum: XXH3 (64 bits, hexadecimal) of the whole range.
    """

    name: str
    tensors: tuple[TensorExtent, ...]
    checksum: str = _NO_CHECKSUM

    @property
    def offset(self) -> int:
        return self.tensors[0].offset

    @property
    def nbytes(self) -> int:
        return self.tensors[-1].offset + self.tensors[-1].nbytes - self.offset


@dataclass(frozen=True)
class Slab:
    """The header of one slab: which share of which model it is, and where its blocks lie.

    source_digest: XXH3 (128 bits, hexadecimal) of the checkpoint's tensors.
    blocks: in the order of use, by name; the embedding, if rank 0 has one of its own, last.
    row_checksums: XXH3 (64 bits) of each row of that embedding, which is read by rows and not as a block.
    """

    path: Path
    rank: int
    dtype: str
    config: ModelConfig
    partition: Partition
    source_digest: str
    blocks: Mapping[str, BlockExtent]
    row_checksums: np.ndarray | None = None

    @property
    def sweep(self) -> Mapping[str, BlockExtent]:
        """The blocks that every sweep uses, in order: all but the embedding."""
        return {name: extent for name, extent in self.blocks.items() if name != EMBEDDING}

    @property
    def nbytes(self) -> int:
        """Bytes of weights, each counted once however many blocks are links to it."""
        return sum({extent.offset: extent.nbytes for extent in self.blocks.values()}.values())

    def identity(self) -> dict[str, str]:
        """What slabs of one split have in common, in words for the message that names a difference."""
        return {
            "checkpoint digest": self.source_digest,
            "model configuration": json.dumps(dict(self.config.keys), sort_keys=True),
            "partition": json.dumps(self.partition.to_json()),
            "dtype": self.dtype,
        }

    @classmethod
    def open(cls, path: Path) -> "Slab":
        """Reads a slab's header. Raises UserError where it is absent, truncated, or not a slab of this format."""
        if not path.is_file():
            raise UserError(f"slab {path} does not exist; split the checkpoint, or copy this rank's slab here")
        try:
            with h5py.File(path, "r", locking=False) as file:
                slab = _read(file, path)
        except UserError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"slab {path} is truncated or damaged ({reason}); copy it again or split again") from None
        _check_length(slab)
        return slab


def rank_blocks(config: ModelConfig, partition: Partition, rank: int) -> tuple[Block, ...]:
    """The blocks of which this rank holds anything, with only the tensors that it holds."""
    held = []
    for block in blocks_of(config, partition):
        tensors = tuple(spec for spec in block.tensors if spec.share(partition, rank) is not None)
        if tensors:
            held.append(replace(block, tensors=tensors))
    return tuple(held)


def create(
    slab: Slab, blocks: Iterable[Block], dtypes: Mapping[str, str], links: Mapping[str, str] | None = None
) -> Slab:
    """Lays out an empty slab at ``slab.path``: every dataset has its place in the file, and no data yet.

    dtypes: the stored dtype of each source tensor.
    links: blocks that are hard links to earlier ones, by name.
    Returns the slab with the extents of its blocks. The data are then written at those extents, and the checksums
    with :func:`seal`.
    """
    blocks, links = tuple(blocks), links or {}
    objects = sum(1 + len(block.tensors) for block in blocks if block.name not in links)
    with h5py.File(
        slab.path,
        "w",
        libver="latest",  # checksums the metadata
        alignment_threshold=1,
        alignment_interval=PAGE,
        meta_block_size=_METADATA_BYTES * (objects + 8),
    ) as file:
        _write_header(file, slab)
        extents: dict[str, BlockExtent] = {}
        for block in blocks:
            if block.name in links:
                file[block.name] = file[links[block.name]]
                extents[block.name] = replace(extents[links[block.name]], name=block.name)
            else:
                extents[block.name] = _create_block(file, slab, block, dtypes)
        if EMBEDDING in extents:
            rows = extents[EMBEDDING].tensors[0].shape[0]
            file[EMBEDDING].create_dataset(_ROW_CHECKSUMS, (rows,), "<u8")
    _check_order(extents)
    return replace(slab, blocks=extents)


def seal(slab: Slab, checksums: Mapping[str, str], source_digest: str, row_checksums: np.ndarray | None = None) -> None:
    """Writes into a slab that has all its data the checksums of its blocks and rows and the source's digest."""
    with h5py.File(slab.path, "r+", libver="latest", locking=False) as file:
        if row_checksums is not None:
            file[EMBEDDING][_ROW_CHECKSUMS][:] = row_checksums
        for name, checksum in checksums.items():
            file[name].attrs.modify("checksum", _fixed(checksum))
        file.attrs.modify("source_digest", _fixed(source_digest))


def _fixed(text: str) -> np.bytes_:
    """Text of fixed length: the other kind lies in a heap that HDF5 would put between the tensors."""
    return np.bytes_(text.encode("utf-8"))


def _write_header(file: h5py.File, slab: Slab) -> None:
    file.attrs["format"] = _fixed(FORMAT)
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["rank"] = slab.rank
    file.attrs["world_size"] = slab.partition.size
    file.attrs["dtype"] = _fixed(slab.dtype)
    file.attrs["config"] = _fixed(json.dumps(dict(slab.config.keys)))
    file.attrs["partition"] = _fixed(json.dumps(slab.partition.to_json()))
    file.attrs["source_digest"] = _fixed(_NO_DIGEST)


def _create_block(file: h5py.File, slab: Slab, block: Block, dtypes: Mapping[str, str]) -> BlockExtent:
    group = file.create_group(block.name)
    group.attrs["checksum"] = _fixed(_NO_CHECKSUM)
    extents = []
    for spec in block.tensors:
        shape, dtype = spec.share_shape(slab.partition, slab.rank), dtypes[spec.source]
        extents.append(TensorExtent(spec.name, dtype, shape, _create_dataset(group, spec.name, shape, dtype)))
    return BlockExtent(block.name, tuple(extents))


def _create_dataset(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: str) -> int:
    """Allocates a contiguous dataset without writing to it; returns its offset in the file."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # the same split gives the same bytes
    stored = h5py.h5t.py_create(np.dtype(STORED_AS[dtype]))
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.Dataset(h5py.h5d.create(group.id, name.encode(), stored, space, properties))
    dataset.attrs["dtype"] = _fixed(dtype)
    return dataset.id.get_offset()


def _check_order(extents: Mapping[str, BlockExtent]) -> None:
    """The promises that the window relies on: page-aligned, in order, nothing between the tensors of a block."""
    end = 0
    for extent in {extent.offset: extent for extent in extents.values()}.values():
        assert extent.offset >= end, f"HDF5 placed block {extent.name} before its predecessor"
        end = extent.offset
        for tensor in extent.tensors:
            assert tensor.offset % PAGE == 0, f"HDF5 placed {tensor.name} off a page boundary"
            assert 0 <= tensor.offset - end < PAGE, f"HDF5 left {tensor.offset - end} bytes before {tensor.name}"
            end = tensor.offset + tensor.nbytes


def _read(file: h5py.File, path: Path) -> Slab:
    if "format" not in file.attrs or _text(file, "format") != FORMAT:
        raise UserError(f"{path} is an HDF5 file but not a slab; give the directory that weights_tools.split wrote")
    version = int(file.attrs["format_version"])
    if version != FORMAT_VERSION:
        raise UserError(f"slab {path} has format version {version}; this release reads {FORMAT_VERSION}: split again")
    config = ModelConfig.from_keys(json.loads(_text(file, "config")), f"the configuration in slab {path}")
    partition = Partition.from_json(json.loads(_text(file, "partition")))
    rank = int(file.attrs["rank"])
    blocks = {block.name: _read_block(file, block, partition, rank) for block in rank_blocks(config, partition, rank)}
    return Slab(
        path=path,
        rank=rank,
        dtype=_text(file, "dtype"),
        config=config,
        partition=partition,
        source_digest=_text(file, "source_digest"),
        blocks=blocks,
        row_checksums=_inside(file[EMBEDDING], _ROW_CHECKSUMS)[:] if EMBEDDING in blocks else None,
    )


def _read_block(file: h5py.File, block: Block, partition: Partition, rank: int) -> BlockExtent:
    group = _inside(file, block.name)
    tensors = []
    for spec in block.tensors:
        dataset = _inside(group, spec.name)
        dtype, expected = _text(dataset, "dtype"), spec.share_shape(partition, rank)
        offset = dataset.id.get_offset()
        if dataset.shape != expected or dataset.dtype.str != STORED_AS[dtype] or offset is None:
            raise ValueError(f"{block.name}/{spec.name} is not the {dtype} dataset of shape {expected} it should be")
        tensors.append(TensorExtent(spec.name, dtype, expected, offset))
    return BlockExtent(block.name, tuple(tensors), _text(group, "checksum"))


def _inside(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """A member that is really in this file: soft and external links could lead to another one."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is missing, or a link that leads elsewhere")
    return group[name]


def _text(item: h5py.Group | h5py.Dataset, attribute: str) -> str:
    return bytes(item.attrs[attribute]).decode("utf-8")


def _check_length(slab: Slab) -> None:
    end = max(extent.offset + extent.nbytes for extent in slab.blocks.values())
    length = os.stat(slab.path).st_size
    if length < end:
        raise UserError(f"slab {slab.path} is truncated: {length} bytes of at least {end}; copy it again")
