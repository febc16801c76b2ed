"""Pieces of a slab's HDF5 file: arrays without data, strings, and members that really are in the file."""

import h5py
import numpy as np


def allocate(group: h5py.Group, name: str, dtype: np.dtype | str, shape: tuple[int, ...]) -> int:
    """Allocates a contiguous dataset without writing to it; returns its offset in the file, in bytes."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # the same split gives the same bytes
    stored, space = h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple(shape)
    return h5py.h5d.create(group.id, name.encode(), stored, space, properties).get_offset()


def fixed(text: str) -> np.bytes_:
    """A fixed-length string: HDF5 keeps variable-length ones in a heap, which it would place between the tensors."""
    return np.bytes_(text.encode("utf-8"))


def inside(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """A member that really is in this file; soft and external links could lead elsewhere."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is missing, or a link that leads elsewhere")
    return group[name]


def text(item: h5py.Group | h5py.Dataset, attribute: str) -> str:
    return bytes(item.attrs[attribute]).decode("utf-8")
