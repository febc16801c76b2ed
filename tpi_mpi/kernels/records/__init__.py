"""The numbers that Python and compiled code pass each other: what lies where in arrays of int64.

pool     what the threads of a pool share
product  the arguments of products
block    the record of a block's steps
segment  that of some positions of a sequence
mixture  the record of a mixture of experts
job      that of some rows on their way through an expert
reading  the arguments of reading memory
search   those of the search for scales
symbols  what compiled code calls by name
"""
