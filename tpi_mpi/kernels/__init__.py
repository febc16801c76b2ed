"""The formats of weights, the products of activations with them, and the blocks made of those.

formats       the formats, and how a matrix lies in memory in each
packing       rows of a matrix into tiles, and back
quantization  numbers to the codes and scales of int8 and int4
operand       matrices and vectors as they lie in memory
numbers       the door between float32 and the dtypes of stored or sent numbers
kv_cache      keys and values of the positions so far
blocks        what is computed of a block beyond products, and by whom
linear        the door: the product of states with operands
cpu           what the CPU can do
table         which kernel multiplies with which format
reader        memory read for its rate
fallback      products and blocks without compiled kernels
"""
