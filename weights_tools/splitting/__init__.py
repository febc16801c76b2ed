"""From a checkpoint to slabs, and back for comparison.

checkpoint         a Hugging Face checkpoint, read lazily and strictly
checkpoint_config  its config.json, read before its tensors
cut                the slabs of all ranks, cut in one pass
slab_writer        one slab as it is written
staged_file        a file written through an aligned buffer
journal            what an interrupted split has done
ratios             ratios for unequal machines
description        what is in a directory of slabs
rejoin             slabs compared with their checksums, and with the checkpoint
"""
