#!/bin/sh
# Chats with the demo model on this terminal, on four ranks of this machine. Options of tpi_mpi.chat may follow.
#
#     jobs/demo/chat.sh
#     echo "What is a slab?" | jobs/demo/chat.sh
#
# Cost: some seconds, 1.3 GB of memory, 7 MB of disk.
# Edit: RANKS, MODEL or CHECKPOINT, as in slabs.sh.
set -eu

. "$(dirname "$0")/slabs.sh"
exec python -m tpi_mpi.chat "$SLABS" --ranks "$RANKS" "$@"
