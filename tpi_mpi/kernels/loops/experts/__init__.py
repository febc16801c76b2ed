"""Mixtures of experts, compiled: see :mod:`tpi_mpi.kernels.compiled.experts`.

exact    sums and exponentials in double precision, the same bits everywhere
router   which experts are chosen for which rows
deal     rows dealt to experts, and the experts' results added up
parts    work that several kernels share
plan     the jobs that are done together
mixture  rows on their way through experts
"""
