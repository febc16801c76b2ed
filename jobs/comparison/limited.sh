#!/bin/sh
# Runs a command in a memory cgroup of its own, page cache included, and prints its peak at the end.
#
#     jobs/comparison/limited.sh LIMIT COMMAND...           LIMIT: as in 1280M
#     mpirun -np 2 jobs/comparison/limited.sh 1280M COMMAND...           each rank in its own
#
# Needs root, and version 1 or 2 of cgroups under /sys/fs/cgroup.
set -eu

LIMIT=$1
shift
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    cgroup=/sys/fs/cgroup/tpi_mpi-$$ limit=memory.max procs=cgroup.procs peak=memory.peak
    echo +memory > /sys/fs/cgroup/cgroup.subtree_control
else
    cgroup=/sys/fs/cgroup/memory/tpi_mpi-$$ limit=memory.limit_in_bytes procs=cgroup.procs
    peak=memory.max_usage_in_bytes
fi
mkdir "$cgroup"
trap 'rmdir "$cgroup"' EXIT
echo "$LIMIT" > "$cgroup/$limit"
[ ! -e "$cgroup/memory.swap.max" ] || echo 0 > "$cgroup/memory.swap.max"

status=0
sh -c 'echo $$ > "$0"; exec "$@"' "$cgroup/$procs" "$@" || status=$?
echo "limited: peak $(($(cat "$cgroup/$peak") / 1048576)) MiB of $LIMIT" >&2
exit "$status"
