#!/bin/sh
# Sourced by the others here: makes SLABS, the demo model's slabs for RANKS ranks of this machine, if there are none.
#
#     . jobs/demo/slabs.sh
#
# Edit: RANKS, up to eight; MODEL=moe, for the demo model with experts, or draft, for the smallest one; CHECKPOINT, to
# run another model the same way.

RANKS=${RANKS:-4}
HERE=$(dirname "$0")
CHECKPOINT=${CHECKPOINT:-$HERE/handbook-${MODEL:-3m}}
SLABS=${SLABS:-$HERE/../../build/$(basename "$CHECKPOINT")-$RANKS}

# Open MPI refuses to run as root unless told to.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

[ -e "$SLABS/manifest.json" ] || python -m weights_tools.split "$CHECKPOINT" "$SLABS" --ranks "$RANKS"
