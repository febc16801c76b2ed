"""The ranks as one program.

world       the communicator, agreement among the ranks, the common end
heartbeat   a machine that falls silent ends the job
abort       the end of a job that MPI cannot end
polling     waiting for messages without keeping a core busy
affinity    the cores of this host, shared out as threads
links       how far and how wide the way to rank 0 is
wire        how numbers travel: as they are, or narrower
tags        the tags of all messages
allreduce/  sums over the ranks
"""
