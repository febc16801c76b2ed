"""From a checkpoint to slabs.

checkpoint         a Hugging Face checkpoint, read lazily and strictly
checkpoint_config  its config.json, read before its tensors
cut                the slabs of all ranks, cut in one pass
pieces             pieces of its source's tensors
conversion         rows from one format into another
digests            digests of the source's tensors
tiles              rows gathered into the tiles of a matrix
slab_writer        one slab as it is written
staged_file        a file written through an aligned buffer
journal            what an interrupted split has done
ratios             ratios for unequal machines
draft              slabs of the same model in fewer bits
"""
