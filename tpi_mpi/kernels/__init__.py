"""The formats of weights, and the products of activations with them.

formats       the formats, and how a matrix lies in memory in each
packing       rows of a matrix into tiles, and back
quantization  weights rounded to the codes of int8 or int4
operand       a matrix as it lies in memory
linear        the door: the product of states with an operand
fallback      the same without compiled kernels
"""
