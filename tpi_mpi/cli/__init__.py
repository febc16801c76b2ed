"""Command lines, and how programs begin and end.

program     how a program runs: alone, as several ranks, or as several ranks with their slabs
arguments   the command lines of programs that run under mpirun
serving     those of a server and of its engine
groups      options that several programs have
parser      a parser, and the kinds of its values
"""
