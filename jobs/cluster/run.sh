#!/bin/sh
# Runs one model on several machines, one rank on each, each reading its slab from its own machine's disk.
#
#     jobs/cluster/run.sh HOSTFILE SLABS --prompt "..."
#
# Before: on every machine, this project at the same path with everything installed (make demo does both), and ssh
# from this one to each without a password. On HOSTFILE's first machine, the slabs, for as many ranks as it has lines.
# Cost: each slab crosses the network once, the first time; then nothing is copied again.
# Edit: NETWORK, the subnet or interface between the machines, where they have more than one; COPIES, where the slabs
# go on each machine, if not to the same path as on the first. There they stay until you remove them.
set -eu

HOSTFILE=$1 SLABS=$(realpath "$2")
shift 2
NETWORK=${NETWORK:-}
COPIES=${COPIES:-$SLABS}
VENV=$(realpath "$(dirname "$0")/../..")/.venv
PYTHON=${PYTHON:-$VENV/bin/python}
MPIRUN=${MPIRUN:-$VENV/bin/mpirun}

# One rank a machine, free to run on all of its processors; TCP between machines, over the network that is named.
# Called by its whole path, mpirun finds its own parts on the others.
[ -z "$NETWORK" ] || export OMPI_MCA_btl_tcp_if_include="$NETWORK"
ranks=$(grep -c '^[^#[:space:]]' "$HOSTFILE")
launch() {
    "$MPIRUN" -np "$ranks" --hostfile "$HOSTFILE" --map-by ppr:1:node --bind-to none "$PYTHON" -m "$@"
}

launch weights_tools.scatter "$SLABS" "$COPIES" < /dev/null
launch tpi_mpi.generate "$COPIES" "$@"
