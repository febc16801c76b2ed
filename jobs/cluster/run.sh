#!/bin/sh
# Runs one model on several machines, one rank on each, with each rank's slab on its own machine's disk.
#
#     jobs/cluster/run.sh HOSTFILE SLABS --prompt "..."
#
# Before: on every machine, this project at the same path with everything installed (make demo does both), and
# ssh from this one to each without a password. Here, the slabs, for as many ranks as HOSTFILE has lines.
# Cost: each slab crosses the network once, the first time; then nothing is copied again.
# Edit: NETWORK, the subnet or interface between the machines, where they have more than one.
set -eu

HOSTFILE=$1 SLABS=$(realpath "$2")
shift 2
NETWORK=${NETWORK:-}
VENV=$(realpath "$(dirname "$0")/../../.venv")

# Each machine gets its own slab and the small files, at the same path as here.
hosts=$(sed -n 's/^\([^#[:space:]][^[:space:]]*\).*/\1/p' "$HOSTFILE")
rank=0
for host in $hosts; do
    slab=$(printf 'rank%04d.h5' "$rank")
    rsync --archive --partial --mkpath --progress --exclude='.*' --include="$slab" --exclude='rank*.h5' \
        "$SLABS/" "$host:$SLABS/" >&2
    rank=$((rank + 1))
done

# One rank a machine, free to run on all of its processors; TCP between machines, over the network that is named.
# Called by its whole path, mpirun finds its own parts at the same path on the others.
[ -z "$NETWORK" ] || export OMPI_MCA_btl_tcp_if_include="$NETWORK"
exec "$VENV/bin/mpirun" -np "$rank" --hostfile "$HOSTFILE" --map-by ppr:1:node --bind-to none \
    "$VENV/bin/python" -m tpi_mpi.generate "$SLABS" "$@"
