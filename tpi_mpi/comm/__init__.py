"""The ranks as one program.

world       the communicator, agreement among ranks, a common exit
heartbeat   ends the job when a machine falls silent
abort       ends a job that MPI cannot end
polling     waits for messages without keeping a core busy
affinity    the cores of this host, divided among its ranks as threads
links       latency and bandwidth between rank 0 and the other ranks
wire        the number format of messages: float32 or narrower
tags        the tags of all messages
allreduce/  sums over the ranks
"""
