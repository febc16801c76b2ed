"""Which experts are in memory.

sizes      how many there are, and how large
slots      memory in places of one size
reader     threads that read from a slab, whatever is needed first
residency  experts in memory: asked for, waited for, used, given up
fetching   one layer's turn
shares     how many experts of each layer stay
cache      what stays: the experts that a layer used last
trust      whether guesses are worth their reads
counts     how often they were there
"""
