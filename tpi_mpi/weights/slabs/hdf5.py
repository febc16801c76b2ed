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
from tpi_mpi.kernels.formats import GROUPS, WHOLE_ROW, Format, Layout, Tiled
from tpi_mpi.model.blocks import EMBEDDING, Block, Kind, TensorSpec, expert_name, shard_blocks
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slabs.experts import LayerExperts
from tpi_mpi.weights.slabs.extents import NO_CHECKSUM, PAGE, BlockExtent, TensorExtent
from tpi_mpi.weights.slabs.hdf5_experts import MOST_OBJECTS, create_experts, group_name, read_experts, write_checksums
from tpi_mpi.weights.slabs.hdf5_parts import allocate, fixed, inside, text
from tpi_mpi.weights.slabs.slab import Slab, layout_of
from tpi_mpi.weights.slabs.stored_formats import StoredFormats

FORMAT = "tpi_mpi slab"
FORMAT_VERSION = 2
# Of the library: this one checksums metadata, and its types are known to tools of today's distributions.
_VERSION = "v110"

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
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError) as error:
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
    objects += MOST_OBJECTS * sum(block.kind is Kind.ROUTER for block in blocks)
    with h5py.File(
        slab.path,
        "w",
        libver=_VERSION,
        alignment_threshold=1,
        alignment_interval=PAGE,
        meta_block_size=_METADATA_BYTES * (objects + 8),
    ) as file:
        _write_header(file, slab)
        extents: dict[str, BlockExtent] = {}
        experts: dict[int, LayerExperts] = {}
        for block in blocks:
            if block.name in links:
                file[block.name] = file[links[block.name]]
                extents[block.name] = replace(extents[links[block.name]], name=block.name)
            else:
                extents[block.name] = _create_block(file, block, layouts[block.name])
            if block.kind is Kind.ROUTER:
                experts[block.layer] = _experts_beside(file, block, links, experts, slab, formats)
        if EMBEDDING in extents:
            rows = extents[EMBEDDING].tensors[0].layout.shape[0]
            file[EMBEDDING].create_dataset(_ROW_CHECKSUMS, (rows,), "<u8")
    slab = replace(slab, blocks=extents, experts=experts)
    _check_order(slab)
    return slab


def _experts_beside(
    file: h5py.File,
    router: Block,
    links: Mapping[str, str],
    before: Mapping[int, LayerExperts],
    slab: Slab,
    formats: StoredFormats,
) -> LayerExperts:
    """The experts of a router's layer; where the router is a link to an earlier one, so are they."""
    if router.name not in links:
        return create_experts(file, slab.config, slab.partition, slab.rank, router.layer, formats)
    original = int(links[router.name].split(".")[1])
    file[group_name(router.layer)] = file[group_name(original)]
    return replace(before[original], layer=router.layer)


def seal(slab: Slab, checksums: Mapping[str, str], source_digest: str, row_checksums: np.ndarray | None = None) -> None:
    """Completes a slab that has all its data with the checksums of its blocks and rows and with the source's digest.

    checksums: by the names of blocks, experts among them; of those that are no links.
    """
    with h5py.File(slab.path, "r+", libver=_VERSION, locking=False) as file:
        if row_checksums is not None:
            file[EMBEDDING][_ROW_CHECKSUMS][:] = row_checksums
        for name in slab.blocks.keys() & checksums.keys():
            file[name].attrs.modify("checksum", fixed(checksums[name]))
        for layer, own in slab.experts.items():
            if expert_name(layer, 0) in checksums:
                write_checksums(file, layer, [checksums[expert_name(layer, number)] for number in range(len(own))])
        file.attrs.modify("source_digest", fixed(source_digest))


def _write_header(file: h5py.File, slab: Slab) -> None:
    file.attrs["format"] = fixed(FORMAT)
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["rank"] = slab.rank
    file.attrs["world_size"] = slab.partition.size
    file.attrs["dtype"] = fixed(slab.dtype)
    file.attrs["formats"] = fixed(json.dumps(dict(slab.formats)))
    file.attrs["config"] = fixed(json.dumps(dict(slab.config.keys)))
    file.attrs["partition"] = fixed(json.dumps(slab.partition.to_json()))
    file.attrs["source_digest"] = fixed(_NO_DIGEST)


def _layouts(slab: Slab, block: Block, formats: StoredFormats) -> list[Layout]:
    return [layout_of(spec, formats.of(spec), slab.partition, slab.rank) for spec in block.tensors]


def _create_block(file: h5py.File, block: Block, layouts: Sequence[Layout]) -> BlockExtent:
    group = file.create_group(block.name)
    group.attrs["checksum"] = fixed(NO_CHECKSUM)
    extents = []
    for spec, layout in zip(block.tensors, layouts, strict=True):
        offsets = [allocate(group, spec.name + part.name, part.dtype, part.shape) for part in layout.parts]
        _describe(group[spec.name], layout)
        extents.append(TensorExtent(spec.name, layout, tuple(offsets)))
    return BlockExtent(block.name, tuple(extents))


def _describe(dataset: h5py.Dataset, layout: Layout) -> None:
    """Writes what a reader needs to know besides shape and type of the dataset."""
    attributes = dataset.attrs
    attributes["dtype"] = fixed(layout.dtype)
    if not isinstance(layout, Tiled):
        return
    attributes["layout"] = fixed(layout.axes)
    for name in _SIZES:
        attributes[name] = getattr(layout, name)
    if layout.format.packed:
        attributes["group"] = layout.format.group
        attributes["scales"] = fixed(layout.format.scales)
        attributes["zero_points"] = int(layout.format.zero_points)


def _check_order(slab: Slab) -> None:
    """Asserts what the window relies on: page-aligned, in order, nothing between the parts of a block."""
    end = 0
    for extent in {extent.offset: extent for extent in slab.blocks.values()}.values():
        assert extent.offset >= end, f"HDF5 placed block {extent.name} before its predecessor"
        end = extent.offset
        for tensor in extent.tensors:
            for start, stop in tensor.ranges:
                assert start % PAGE == 0, f"HDF5 placed {tensor.name} off a page boundary"
                assert 0 <= start - end < PAGE, f"HDF5 left {start - end} bytes before a part of {tensor.name}"
                end = stop
    for own in slab.experts.values():
        assert not (own.offsets % PAGE).any(), f"HDF5 placed experts of layer {own.layer} off page boundaries"


def _read(file: h5py.File, path: Path) -> Slab:
    if "format" not in file.attrs or text(file, "format") != FORMAT:
        raise UserError(f"{path} is an HDF5 file but not a slab; give the directory that weights_tools.split wrote")
    version = int(file.attrs["format_version"])
    if version != FORMAT_VERSION:
        raise UserError(f"slab {path} has format version {version}; this release reads {FORMAT_VERSION}: split again")
    config = ModelConfig.from_keys(json.loads(text(file, "config")), f"the configuration in slab {path}")
    partition = Partition.from_json(json.loads(text(file, "partition")))
    rank = int(file.attrs["rank"])
    blocks = {block.name: _read_block(file, block, partition, rank) for block in shard_blocks(config, partition, rank)}
    return Slab(
        path=path,
        rank=rank,
        dtype=text(file, "dtype"),
        formats=json.loads(text(file, "formats")),
        config=config,
        partition=partition,
        source_digest=text(file, "source_digest"),
        blocks=blocks,
        row_checksums=inside(file[EMBEDDING], _ROW_CHECKSUMS)[:] if EMBEDDING in blocks else None,
        experts={
            layer: read_experts(file, config, partition, rank, layer)
            for layer in range(config.num_hidden_layers)
            if config.has_experts(layer)
        },
    )


def _read_block(file: h5py.File, block: Block, partition: Partition, rank: int) -> BlockExtent:
    group = inside(file, block.name)
    tensors = tuple(_read_tensor(group, spec, partition, rank) for spec in block.tensors)
    return BlockExtent(block.name, tensors, text(group, "checksum"))


def _read_tensor(group: h5py.Group, spec: TensorSpec, partition: Partition, rank: int) -> TensorExtent:
    first = inside(group, spec.name)
    format, offsets = _format(first), []
    layout = layout_of(spec, format, partition, rank)
    if isinstance(layout, Tiled) and any(first.attrs.get(name) != getattr(layout, name) for name in _SIZES):
        raise ValueError(f"{group.name}/{spec.name} is not the matrix of shape {layout.shape} it should be")
    for part in layout.parts:
        dataset = inside(group, spec.name + part.name)
        offsets.append(dataset.id.get_offset())
        if (dataset.shape, dataset.dtype.str) != (part.shape, part.dtype) or offsets[-1] is None:
            raise ValueError(f"{dataset.name} is not the {format.dtype} dataset of shape {part.shape} it should be")
    return TensorExtent(spec.name, layout, tuple(offsets))


def _format(dataset: h5py.Dataset) -> Format:
    dtype = text(dataset, "dtype")
    if "group" not in dataset.attrs:
        return Format(dtype)
    group, zero_points = int(dataset.attrs["group"]), bool(dataset.attrs["zero_points"])
    if group not in (WHOLE_ROW, *GROUPS):
        raise ValueError(f"{dataset.name} has groups of {group} columns")
    try:
        return Format(dtype, group, text(dataset, "scales"), zero_points)
    except ValueError as error:
        raise ValueError(f"{dataset.name}: {error}") from None


def _check_length(slab: Slab) -> None:
    ends = [extent.stop for extent in slab.blocks.values()]
    end = max(*ends, *(own.extent(int(own.offsets.argmax())).stop for own in slab.experts.values()))
    length = os.stat(slab.path).st_size
    if length < end:
        raise UserError(f"slab {slab.path} is truncated: {length} bytes of at least {end}; copy it again")
