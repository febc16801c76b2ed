"""The formats of weights, and the products of activations with them.

formats       the formats, and how a matrix lies in memory in each
packing       rows of a matrix into tiles, and back
quantization  numbers to the codes and scales of int8 and int4
operand       a matrix as it lies in memory
numbers       the door between float32 and the dtypes of stored or sent numbers
linear        the door: the product of states with operands
cpu           what the CPU can do
table         which kernel multiplies with which format
work          kinds of work
reader        memory read for its rate
fallback      products without compiled kernels
"""
