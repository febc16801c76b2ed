"""Slabs on their way to the machines of their ranks.

scattering     all of them: offers, room, what is there already, small files
stream         one slab, chunk by chunk
received_file  a slab on its way into its place
extents        a slab's file, piece by piece
disk_threads   threads that wait for a disk, and notice when it hangs
"""
