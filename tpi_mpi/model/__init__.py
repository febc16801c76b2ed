"""What a model computes. No MPI, no files.

config       config.json, read strictly
families     one row for each model_type
rope_config  the settings of the rotary embedding
names        Hugging Face's names of modules
partition    which rank holds which heads and columns
blocks       what a block is made of, and how each tensor is cut
transformer  what one rank computes of each block
layers       the arithmetic of a layer
rope         the rotary position embedding
kv_cache     keys and values of the positions so far
"""
