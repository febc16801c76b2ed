"""What the threads of a pool share, by place in bytes; what different threads write is on different cache lines."""

TICKET = 0  # number of the job, and the next chunk of it in the lower half
DONE = 64  # items of the job
SLEEPING = 128  # workers
STOPPED = 192
ACTIVE = 200  # workers that may take chunks
BUSY = 256  # whether a job runs
WAITED = 264  # nanoseconds
WORKED = 272
JOBS = 320  # eight, in turn
JOB_BYTES = 64  # kernel, arguments, items, items in a chunk
SIZE = JOBS + 8 * JOB_BYTES

EVERYONE = 1 << 30
"""More workers than there are."""
