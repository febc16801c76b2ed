"""Command lines, and how programs begin and end.

arguments   the command lines, read into options
program     how a program runs: alone, as several ranks, as several ranks that need their slabs
"""
