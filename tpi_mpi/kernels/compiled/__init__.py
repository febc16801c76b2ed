"""Compiled code at work. Nothing here imports Numba.

library     compiled functions on the disk, and in memory
compiling   those that are not on the disk, compiled by other processes
functions   their names
pool        the threads that run them
prepared    products with all that kernels need to know of them
multiplier  products of whoever has arrays
program     the steps of a block, with the record that they share
segments    whose positions the rows of a block are
blocks      blocks as lists of steps, prepared once and run by one call
reading     memory read for its rate

experts/ has mixtures of experts.
"""
