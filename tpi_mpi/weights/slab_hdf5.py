"""The slab's HDF5 file: one group per block, and in it a contiguous, page-aligned dataset for each part of a tensor.

Datasets lie in the order of use. Attributes of a tensor's first dataset say what its numbers are and how they lie.
docs/slab-format.md describes the format for reading slabs with other tools.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.formats import GROUPS, WHOLE_ROW, Format, Layout, Part, Tiled
from tpi_mpi.model.blocks import EMBEDDING, Block, TensorSpec, shard_blocks
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slab import NO_CHECKSUM, PAGE, BlockExtent, Slab, TensorExtent, layout_of
from tpi_mpi.weights.stored_formats import StoredFormats

FORMAT = "tpi_mpi slab"
FORMAT_VERSION = 2

# Room for the metadata of one dataset or group ahead of the data, so that no metadata lands between tensors. HDF5 puts
# every piece of them on a page of its own.
_METADATA_BYTES = 8192
_NO_DIGEST = "0" * 32
_ROW_CHECKSUMS = "row_checksums"
# The sizes of a tiled matrix that are attributes of its first dataset.
_SIZES = ("rows", "columns", "lead")


def read_slab(path: Path) -> Slab:
    """Reads a slab's header. Raises UserError if the file is missing, truncated, or not a slab of this format."""
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


def create(slab: Slab, blocks: Iterable[Block], formats: StoredFormats, links: Mapping[str, str] | None = None) -> Slab:
    """Lays out an empty slab at ``slab.path``: every dataset has its place in the file, but no data yet.

    formats: those that the tensors are stored in.
    links: for each block that is a hard link, the name of the earlier block that it links to.
    Returns the slab with the extents of its blocks. The data are then to be written at those extents, and the
    checksums with :func:`seal`.
    """
    blocks, links = tuple(blocks), links or {}
    layouts = {block.name: _layouts(slab, block, formats) for block in blocks if block.name not in links}
    objects = sum(1 + sum(len(layout.parts) for layout in own) for own in layouts.values())
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
                extents[block.name] = _create_block(file, block, layouts[block.name])
        if EMBEDDING in extents:
            rows = extents[EMBEDDING].tensors[0].layout.shape[0]
            file[EMBEDDING].create_dataset(_ROW_CHECKSUMS, (rows,), "<u8")
    _check_order(extents)
    return replace(slab, blocks=extents)


def seal(slab: Slab, checksums: Mapping[str, str], source_digest: str, row_checksums: np.ndarray | None = None) -> None:
    """Completes a slab that has all its data with the checksums of its blocks and rows and with the source's digest."""
    with h5py.File(slab.path, "r+", libver="latest", locking=False) as file:
        if row_checksums is not None:
            file[EMBEDDING][_ROW_CHECKSUMS][:] = row_checksums
        for name, checksum in checksums.items():
            file[name].attrs.modify("checksum", _fixed(checksum))
        file.attrs.modify("source_digest", _fixed(source_digest))


def _fixed(text: str) -> np.bytes_:
    """A fixed-length string: HDF5 keeps variable-length ones in a heap, which it would place between the tensors."""
    return np.bytes_(text.encode("utf-8"))


def _write_header(file: h5py.File, slab: Slab) -> None:
    file.attrs["format"] = _fixed(FORMAT)
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["rank"] = slab.rank
    file.attrs["world_size"] = slab.partition.size
    file.attrs["dtype"] = _fixed(slab.dtype)
    file.attrs["formats"] = _fixed(json.dumps(dict(slab.formats)))
    file.attrs["config"] = _fixed(json.dumps(dict(slab.config.keys)))
    file.attrs["partition"] = _fixed(json.dumps(slab.partition.to_json()))
    file.attrs["source_digest"] = _fixed(_NO_DIGEST)


def _layouts(slab: Slab, block: Block, formats: StoredFormats) -> list[Layout]:
    return [layout_of(spec, formats.of(spec), slab.partition, slab.rank) for spec in block.tensors]


def _create_block(file: h5py.File, block: Block, layouts: Sequence[Layout]) -> BlockExtent:
    group = file.create_group(block.name)
    group.attrs["checksum"] = _fixed(NO_CHECKSUM)
    extents = []
    for spec, layout in zip(block.tensors, layouts, strict=True):
        offsets = [_create_dataset(group, spec.name + part.name, part) for part in layout.parts]
        _describe(group[spec.name], layout)
        extents.append(TensorExtent(spec.name, layout, tuple(offsets)))
    return BlockExtent(block.name, tuple(extents))


def _create_dataset(group: h5py.Group, name: str, part: Part) -> int:
    """Allocates a contiguous dataset without writing to it; returns its offset in the file, in bytes."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # the same split gives the same bytes
    stored = h5py.h5t.py_create(np.dtype(part.dtype))
    space = h5py.h5s.create_simple(part.shape)
    return h5py.h5d.create(group.id, name.encode(), stored, space, properties).get_offset()


def _describe(dataset: h5py.Dataset, layout: Layout) -> None:
    """Writes what a reader needs to know besides shape and type of the dataset."""
    attributes = dataset.attrs
    attributes["dtype"] = _fixed(layout.dtype)
    if not isinstance(layout, Tiled):
        return
    attributes["layout"] = _fixed(layout.axes)
    for name in _SIZES:
        attributes[name] = getattr(layout, name)
    if layout.format.packed:
        attributes["group"] = layout.format.group
        attributes["scales"] = _fixed(layout.format.scales)
        attributes["zero_points"] = int(layout.format.zero_points)


def _check_order(extents: Mapping[str, BlockExtent]) -> None:
    """Asserts what the window relies on: page-aligned, in order, nothing between the parts of a block."""
    end = 0
    for extent in {extent.offset: extent for extent in extents.values()}.values():
        assert extent.offset >= end, f"HDF5 placed block {extent.name} before its predecessor"
        end = extent.offset
        for tensor in extent.tensors:
            for start, stop in tensor.ranges:
                assert start % PAGE == 0, f"HDF5 placed {tensor.name} off a page boundary"
                assert 0 <= start - end < PAGE, f"HDF5 left {start - end} bytes before a part of {tensor.name}"
                end = stop


def _read(file: h5py.File, path: Path) -> Slab:
    if "format" not in file.attrs or _text(file, "format") != FORMAT:
        raise UserError(f"{path} is an HDF5 file but not a slab; give the directory that weights_tools.split wrote")
    version = int(file.attrs["format_version"])
    if version != FORMAT_VERSION:
        raise UserError(f"slab {path} has format version {version}; this release reads {FORMAT_VERSION}: split again")
    config = ModelConfig.from_keys(json.loads(_text(file, "config")), f"the configuration in slab {path}")
    partition = Partition.from_json(json.loads(_text(file, "partition")))
    rank = int(file.attrs["rank"])
    blocks = {block.name: _read_block(file, block, partition, rank) for block in shard_blocks(config, partition, rank)}
    return Slab(
        path=path,
        rank=rank,
        dtype=_text(file, "dtype"),
        formats=json.loads(_text(file, "formats")),
        config=config,
        partition=partition,
        source_digest=_text(file, "source_digest"),
        blocks=blocks,
        row_checksums=_inside(file[EMBEDDING], _ROW_CHECKSUMS)[:] if EMBEDDING in blocks else None,
    )


def _read_block(file: h5py.File, block: Block, partition: Partition, rank: int) -> BlockExtent:
    group = _inside(file, block.name)
    tensors = tuple(_read_tensor(group, spec, partition, rank) for spec in block.tensors)
    return BlockExtent(block.name, tensors, _text(group, "checksum"))


def _read_tensor(group: h5py.Group, spec: TensorSpec, partition: Partition, rank: int) -> TensorExtent:
    first = _inside(group, spec.name)
    format, offsets = _format(first), []
    layout = layout_of(spec, format, partition, rank)
    if isinstance(layout, Tiled) and any(first.attrs.get(name) != getattr(layout, name) for name in _SIZES):
        raise ValueError(f"{group.name}/{spec.name} is not the matrix of shape {layout.shape} it should be")
    for part in layout.parts:
        dataset = _inside(group, spec.name + part.name)
        offsets.append(dataset.id.get_offset())
        if (dataset.shape, dataset.dtype.str) != (part.shape, part.dtype) or offsets[-1] is None:
            raise ValueError(f"{dataset.name} is not the {format.dtype} dataset of shape {part.shape} it should be")
    return TensorExtent(spec.name, layout, tuple(offsets))


def _format(dataset: h5py.Dataset) -> Format:
    dtype = _text(dataset, "dtype")
    if "group" not in dataset.attrs:
        return Format(dtype)
    group, zero_points = int(dataset.attrs["group"]), bool(dataset.attrs["zero_points"])
    if group not in (WHOLE_ROW, *GROUPS):
        raise ValueError(f"{dataset.name} has groups of {group} columns")
    try:
        return Format(dtype, group, _text(dataset, "scales"), zero_points)
    except ValueError as error:
        raise ValueError(f"{dataset.name}: {error}") from None


def _inside(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """A member that really is in this file; soft and external links could lead elsewhere."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is missing, or a link that leads elsewhere")
    return group[name]


def _text(item: h5py.Group | h5py.Dataset, attribute: str) -> str:
    return bytes(item.attrs[attribute]).decode("utf-8")


def _check_length(slab: Slab) -> None:
    end = max(extent.stop for extent in slab.blocks.values())
    length = os.stat(slab.path).st_size
    if length < end:
        raise UserError(f"slab {slab.path} is truncated: {length} bytes of at least {end}; copy it again")
