"""Slabs compared with what they were made from.

checksums  every block and row as it was written
rejoin     the shards of all ranks together, beside the checkpoint
deviation  how far rounded weights are from it
"""
