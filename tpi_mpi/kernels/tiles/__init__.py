"""The machine code of kernels, written instruction by instruction.

emitter       vector instructions
integer_tile  a tile of codes times rows of bytes
float_tile    a tile of floating-point weights times rows
exact         sums of exact products in double precision
rounding      a group of states rounded to bytes
intrinsics    the same as functions that compiled code calls
"""
