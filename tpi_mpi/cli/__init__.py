"""Command lines, and how programs begin and end.

arguments   the command lines, parsed into options
program     how a program runs: alone, as several ranks, or as several ranks with their slabs
"""
