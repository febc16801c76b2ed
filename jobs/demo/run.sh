#!/bin/sh
# Asks the demo model a question, on four ranks of this machine.
#
#     jobs/demo/run.sh "What is a slab?"
#
# Cost: some seconds, 1.2 GB of memory, 7 MB of disk.
# Edit: RANKS, up to eight; MODEL=moe, for the demo model with experts, or draft, for the smallest one; CHECKPOINT, to
# run another model the same way.
set -eu

QUESTION=${1:-What is the sliding window?}
RANKS=${RANKS:-4}
HERE=$(dirname "$0")
CHECKPOINT=${CHECKPOINT:-$HERE/handbook-${MODEL:-3m}}
SLABS=${SLABS:-$HERE/../../build/$(basename "$CHECKPOINT")-$RANKS}

# Open MPI refuses to run as root unless told to.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

[ -e "$SLABS/manifest.json" ] || python -m weights_tools.split "$CHECKPOINT" "$SLABS" --ranks "$RANKS"

# There may be more ranks than cores, and no rank is bound to a core.
mpirun -np "$RANKS" --map-by :oversubscribe --bind-to none \
    python -m tpi_mpi.generate "$SLABS" --chat --prompt "$QUESTION"
