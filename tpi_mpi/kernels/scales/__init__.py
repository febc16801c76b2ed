"""The search for the scales of groups of numbers.

candidates    the scales that are tried
slow_search   the search by numpy; compiled, it is tpi_mpi.kernels.loops.search
"""
