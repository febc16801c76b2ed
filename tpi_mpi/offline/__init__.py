"""A prompts file in, an answers file out.

run      one run of tpi_mpi.generate, on every rank
batch    rank 0's side of it: prompts made into requests, tokens into text
prompts  the prompts file
records  the output file, by which an interrupted run goes on where it was
stdin    standard input, read to its end even under mpirun
"""
