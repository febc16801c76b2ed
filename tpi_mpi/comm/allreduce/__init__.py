"""Sums over the ranks.

algorithms      the ones that can be asked for, and what the engine needs of each
tuned           the fastest of the next three, found by trying
star            by way of rank 0
direct          everyone to everyone
reduce_scatter  a part each, then everyone to everyone
base            what these three have in common: buffers, persistent requests, the order of addition
"""
