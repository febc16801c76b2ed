"""Mixtures of experts.

routing       what a router goes by
choice        how it chooses, slowly and obviously
record        how an expert lies in memory
mixture       rows on their way through the experts that were chosen for them
slow_mixture  the same without compiled kernels
"""
