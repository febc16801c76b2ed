"""All machines looked at before a run: tpi_mpi.check.

run         one check: every rank examines its machine, rank 0 compares them
rank_check  what one rank finds out about its machine
diagnosis   what is wrong with machines that should work together
versions    versions of the software that they should have in common
target      what they are to run: slabs, or a checkpoint
"""
