"""What a model computes. No MPI, no files.

config       config.json, read strictly
experts_config  what it says of a mixture of experts
families     what distinguishes each model_type
rope_config  the settings of the rotary embedding
names        Hugging Face's names of modules
partition    which rank holds which heads and columns
blocks       the tensors of each block, and how they are cut
transformer  the part of each block that one rank computes
rope         the rotary position embedding
room         what there is room for at once, and the memory that it takes
"""
