"""Sums over the ranks.

algorithms      the choices of --allreduce, and the interface they share
tuned           the fastest of the next three, found by measuring
star            through rank 0
direct          every rank to every other
reduce_scatter  each rank sums one part and sends it to every other
base            what these three have in common: buffers, plans with persistent requests, order of addition
"""
