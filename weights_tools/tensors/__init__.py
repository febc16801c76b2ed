"""The tensors in the files of a checkpoint, under the names and in the shapes in which the model knows them.

stored      a tensor in a safetensors file
slices      what of a tensor of all experts is one expert's
rules       how the checkpoints of each family differ from the model
translated  all tensors
"""
