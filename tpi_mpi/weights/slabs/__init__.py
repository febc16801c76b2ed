"""Slabs: the files with each rank's weights.

slab            the layout of a slab
extents         where blocks and tensors lie
experts         where the experts of a layer lie
stored_formats  the format of each tensor
hdf5            a slab as an HDF5 file
hdf5_experts    the experts of a layer in it
hdf5_parts      what both are made of
directory       a directory of slabs and its manifest
"""
