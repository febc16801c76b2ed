"""A prompts file in, an answers file out.

run       one run of tpi_mpi.generate, on every rank
batch     rank 0's side of it: requests given to the engine, tokens turned into text
tasks     what is to be done of the prompts, and a survey of it
prompts   the prompts file
lines     its lines, which can be read twice
stdin     standard input, read to its end even under mpirun
records   the output file, from which an interrupted run resumes
record    a line of it
hashes    what is too much to be remembered, to be known again
progress  how far it has come
"""
