"""All machines looked at before a run: tpi_mpi.check.

run         one check: every rank looks at its machine, rank 0 compares
rank_check  what one rank finds out about its machine
diagnosis   what is wrong with machines that should fit together
versions    versions of what they should have in common
target      what they are to run: slabs, or a checkpoint
"""
