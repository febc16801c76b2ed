#!/bin/sh
# Asks the demo model a question, on four ranks of this machine.
#
#     jobs/demo/run.sh "What is a slab?"
#
# Cost: some seconds, 1.2 GB of memory, 7 MB of disk.
# Edit: RANKS, MODEL or CHECKPOINT, as in slabs.sh.
set -eu

QUESTION=${1:-What is the sliding window?}
. "$(dirname "$0")/slabs.sh"

# There may be more ranks than cores, and no rank is bound to a core.
mpirun -np "$RANKS" --map-by :oversubscribe --bind-to none \
    python -m tpi_mpi.generate "$SLABS" --chat --prompt "$QUESTION"
