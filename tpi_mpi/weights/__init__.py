"""Slabs, and what of them is in memory.

slab            where everything lies in a slab
slab_hdf5       its file
slab_directory  a directory of slabs and its manifest
mapping         blocks mapped from the file
pages           pages of mapped files
window          the sliding window: blocks fetched ahead of use, released behind
budget          what a memory budget leaves for weights
embedding       rows of the embedding, read as tokens ask for them
prefetch        the first blocks, read while libraries are imported
patience        how long a disk may give nothing
"""
