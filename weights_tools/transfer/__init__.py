"""Slabs on their way to the machines of their ranks.

scattering     all of them: offers, room, what has arrived before
stream         one slab, chunk by chunk
received_file  a slab as it is received
small_files    what lies beside them
extents        the byte ranges of a slab's file
"""
