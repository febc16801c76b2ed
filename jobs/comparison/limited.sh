#!/bin/sh
# Runs a command in a memory cgroup of its own, page cache included, and says at the end what it took at most.
#
#     jobs/comparison/limited.sh LIMIT COMMAND...           LIMIT as in 1280M
#     mpirun -np 2 jobs/comparison/limited.sh 1280M COMMAND...           each rank in one of its own
#
# Needs root, and version 1 or 2 of cgroups under /sys/fs/cgroup.
set -eu

LIMIT=$1
shift
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    group=/sys/fs/cgroup/tpi_mpi-$$ limit=memory.max procs=cgroup.procs peak=memory.peak
    echo +memory > /sys/fs/cgroup/cgroup.subtree_control
else
    group=/sys/fs/cgroup/memory/tpi_mpi-$$ limit=memory.limit_in_bytes procs=cgroup.procs
    peak=memory.max_usage_in_bytes
fi
mkdir "$group"
trap 'rmdir "$group"' EXIT
echo "$LIMIT" > "$group/$limit"
[ ! -e "$group/memory.swap.max" ] || echo 0 > "$group/memory.swap.max"

status=0
sh -c 'echo $$ > "$0"; exec "$@"' "$group/$procs" "$@" || status=$?
echo "limited: peak $(($(cat "$group/$peak") / 1048576)) MiB of $LIMIT" >&2
exit "$status"
