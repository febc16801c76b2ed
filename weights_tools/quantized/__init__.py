"""Checkpoints whose weights are quantized already, read without rounding anything again.

quantization        what of a checkpoint is quantized, by its config.json and its files
matrix              a matrix that is held as codes with scales
gptq                how GPTQ lays them out
awq                 how AWQ does
compressed_tensors  how compressed-tensors does
schemes             its config_groups
fp8                 weights in E4M3
mxfp4               weights in E2M1
parts               the tensors of one module
sharing             which weights share a scale
section             one object of a quantization_config
bits                codes packed into words
"""
