"""A prompts file in, an answers file out.

run      one run of tpi_mpi.generate, on every rank
batch    rank 0's side of it: prompts turned into requests, and tokens into text
prompts  the prompts file
records  the output file, from which an interrupted run resumes
stdin    standard input, read to its end even under mpirun
"""
