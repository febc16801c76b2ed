"""What the machines do now, in a phrase."""

from collections.abc import Mapping

from tpi_mpi.common.errors import TpiError
from tpi_mpi.common.units import show_duration
from tpi_mpi.dialogue.characters import printable
from tpi_mpi.dialogue.remote.client import Client


def activity(client: Client) -> str:
    """How far the sweep under way is, or what keeps the server from one; empty if it does not tell."""
    try:
        return described(client.machines())
    except TpiError:
        return ""


def described(machines: Mapping) -> str:
    """The phrase for what a server tells of its machines, any field of which may be missing."""
    status = machines.get("status")
    if status not in (None, "ready"):
        return printable(f"the server is {status}")
    sweep = machines.get("sweep")
    if not isinstance(sweep, dict):
        return ""
    done, blocks, left = (sweep.get(key) for key in ("done", "blocks", "left_s"))
    phrases = [f"{done} of {blocks} blocks"] if isinstance(done, int) and isinstance(blocks, int) else []
    phrases += [f"{show_duration(left)} left for this token"] if isinstance(left, int | float) else []
    return ", ".join(phrases)
