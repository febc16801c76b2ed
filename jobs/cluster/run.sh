#!/bin/sh
# Runs one model on several machines, with one rank on each, which reads its slab from its machine's own disk.
#
#     jobs/cluster/run.sh HOSTFILE SLABS --prompt "..."
#
# Needs, on every machine, this project at the same path with everything installed (make demo does that), and ssh from
# this machine to each without a password; on the first machine of HOSTFILE, slabs for as many ranks as it has lines.
# Cost: each slab crosses the network once, the first time; after that nothing is copied again.
# Edit: NETWORK, the subnet or interface between the machines, if they have more than one; COPIES, where the slabs go
# on each machine, if not to the same path as on the first. The copies stay until you remove them.
set -eu

HOSTFILE=$1 SLABS=$(realpath "$2")
shift 2
NETWORK=${NETWORK:-}
COPIES=${COPIES:-$SLABS}
VENV=$(realpath "$(dirname "$0")/../..")/.venv
PYTHON=${PYTHON:-$VENV/bin/python}
MPIRUN=${MPIRUN:-$VENV/bin/mpirun}

# One rank per machine, free to run on all of its cores; TCP between machines, over NETWORK if that is given.
# Called by its full path, mpirun finds its own parts on the other machines.
[ -z "$NETWORK" ] || export OMPI_MCA_btl_tcp_if_include="$NETWORK"
ranks=$(grep -c '^[^#[:space:]]' "$HOSTFILE")
launch() {
    "$MPIRUN" -np "$ranks" --hostfile "$HOSTFILE" --map-by ppr:1:node --bind-to none "$PYTHON" -m "$@"
}

launch weights_tools.scatter "$SLABS" "$COPIES" < /dev/null
launch tpi_mpi.generate "$COPIES" "$@"
