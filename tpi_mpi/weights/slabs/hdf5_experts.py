"""The experts of a layer in a slab's HDF5 file: a group, and in it arrays of records, one for each expert.

Experts with as many columns lie in one array. A record has a field for each part of each tensor; an attribute says what
the tensors' numbers are, and how they lie. So a file with thousands of experts has few objects, and opens quickly.
"""

import json
from collections.abc import Mapping, Sequence

import h5py
import numpy as np

from tpi_mpi.kernels.experts.record import ExpertRecord
from tpi_mpi.kernels.formats import Format, Layout, Tiled
from tpi_mpi.model.blocks import Block, expert_block
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slabs.experts import TENSORS, LayerExperts, kinds_of
from tpi_mpi.weights.slabs.hdf5_parts import allocate, fixed, inside, text
from tpi_mpi.weights.slabs.slab import expert_record, records_of
from tpi_mpi.weights.slabs.stored_formats import StoredFormats

_CHECKSUMS = "checksums"
MOST_OBJECTS = 8
"""HDF5 objects of a layer's experts, at most: their group, checksums, and arrays, of which one or two are usual."""


def group_name(layer: int) -> str:
    return f"layers.{layer}.experts"


def create_experts(
    file: h5py.File, config: ModelConfig, partition: Partition, rank: int, layer: int, formats: StoredFormats
) -> LayerExperts:
    """Gives a layer's experts their places in the file, but no data yet."""
    own = records_of(config, partition, rank, layer, formats)
    records, kinds = kinds_of(own)
    assert len(records) + 2 <= MOST_OBJECTS, f"experts lie in {len(records)} ways, for which there is no room"
    group, offsets = file.create_group(group_name(layer)), np.empty(len(own), np.int64)
    for kind, record in enumerate(records):
        numbers = np.flatnonzero(kinds == kind)
        first = allocate(group, _name(record), _dtype(record), (len(numbers),))
        offsets[numbers] = first + record.nbytes * np.arange(len(numbers))
        group[_name(record)].attrs["experts"] = numbers.astype("<i4")
        group[_name(record)].attrs["tensors"] = fixed(json.dumps(_described(record)))
    group.create_dataset(_CHECKSUMS, (len(own),), "<u8")
    return LayerExperts(layer, records, kinds, offsets, np.zeros(len(own), np.uint64))


def write_checksums(file: h5py.File, layer: int, checksums: Sequence[str]) -> None:
    """checksums: in hexadecimal, in the order of the experts' numbers."""
    file[group_name(layer)][_CHECKSUMS][:] = np.array([int(checksum, 16) for checksum in checksums], np.uint64)


def read_experts(file: h5py.File, config: ModelConfig, partition: Partition, rank: int, layer: int) -> LayerExperts:
    """Where a layer's experts are. Raises ValueError or KeyError if they are not as they should be."""
    group, count = inside(file, group_name(layer)), config.experts.count
    records, kinds, offsets = [], np.full(count, -1), np.empty(count, np.int64)
    for name in group:
        if name == _CHECKSUMS:
            continue
        dataset = inside(group, name)
        numbers = _numbers(dataset, count)
        block, described = expert_block(config, layer, int(numbers[0])), json.loads(text(dataset, "tensors"))
        record = expert_record(block, partition, rank, _formats(described, block))
        right = dataset.dtype == _dtype(record) and described == _described(record)
        if not right or dataset.shape != numbers.shape or dataset.id.get_offset() is None:
            raise ValueError(f"{dataset.name} is not the array of {len(numbers)} experts it should be")
        kinds[numbers] = len(records)
        offsets[numbers] = dataset.id.get_offset() + record.nbytes * np.arange(len(numbers))
        records.append(record)
    for number, kind in enumerate(kinds):
        if kind < 0 or not _fits(records[kind], *partition.expert(layer, number)[rank]):
            raise ValueError(f"{group.name} has no expert {number} as it should be")
    checksums = inside(group, _CHECKSUMS)
    if (checksums.shape, checksums.dtype.str) != ((count,), "<u8"):
        raise ValueError(f"{checksums.name} are not those of {count} experts")
    return LayerExperts(layer, tuple(records), kinds, offsets, checksums[:])


def _numbers(dataset: h5py.Dataset, count: int) -> np.ndarray:
    """Which experts an array has, in its order."""
    numbers = dataset.attrs["experts"].astype(np.int64)
    if (
        not numbers.size
        or len(set(numbers.tolist())) != numbers.size
        or not 0 <= numbers.min() <= numbers.max() < count
    ):
        raise ValueError(f"{dataset.name} does not say which of {count} experts it has")
    return numbers


def _fits(record: ExpertRecord, start: int, stop: int) -> bool:
    """Whether an expert lies so whose columns from ``start`` up to ``stop`` the rank has."""
    down = record.matrices[2]
    return (down.columns, down.lead) == (stop - start, start % down.format.group if down.format.group else 0)


def _formats(described: Mapping[str, dict], block: Block) -> StoredFormats:
    """Those of an expert's tensors, as if its sources had them."""
    return StoredFormats({spec.source: Format.from_json(described[spec.name]["format"]) for spec in block.tensors
                          if spec.name in described})  # fmt: skip


def _name(record: ExpertRecord) -> str:
    """``384_columns``, or ``48_columns_16_into_a_group``."""
    down = record.matrices[2]
    return f"{down.columns}_columns" + (f"_{down.lead}_into_a_group" if down.lead else "")


def _dtype(record: ExpertRecord) -> np.dtype:
    """A record's fields, one for each part of each tensor."""
    fields = [
        (name + part.name, (part.dtype, part.shape), offset)
        for name, layout, offsets in zip(TENSORS, record.tensors, record.offsets, strict=True)
        if layout
        for part, offset in zip(layout.parts, offsets, strict=True)
    ]
    names, formats, offsets = map(list, zip(*fields, strict=True))
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": record.nbytes})


def _described(record: ExpertRecord) -> dict[str, dict]:
    """What a reader needs to know of each tensor besides its shape and type."""
    pairs = zip(TENSORS, record.tensors, strict=True)
    return {name: {"format": layout.format.to_json(), **_sizes(layout)} for name, layout in pairs if layout}


def _sizes(layout: Layout) -> dict:
    if not isinstance(layout, Tiled):
        return {}
    return {"layout": layout.axes, "rows": layout.rows, "columns": layout.columns, "lead": layout.lead}
