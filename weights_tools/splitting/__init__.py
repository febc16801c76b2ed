"""A checkpoint to slabs, and back to be compared.

checkpoint   a Hugging Face checkpoint, read lazily and strictly
cut          the slabs of all ranks, cut in one pass
slab_writer  one slab being written
staged_file  a file written through an aligned buffer
journal      what an interrupted split has done
ratios       ratios for unequal machines
rejoin       slabs held against their checksums, and against the checkpoint
"""
