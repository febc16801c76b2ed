"""How long a job waits for a silent machine or disk before it ends."""

from dataclasses import dataclass

# The part of the time limit that may pass in silence; the rest is for ending the job.
_SILENCE = 0.75
# The part of the time limit that MPI gets for ending the job everywhere, and the least in seconds.
_GRACE, _LEAST_GRACE = 0.05, 1.0


@dataclass(frozen=True)
class Deadline:
    """seconds: the time within which the whole job ends once a machine is lost or a disk hangs."""

    seconds: float

    @property
    def silence(self) -> float:
        """Seconds of silence after which a machine or a disk counts as lost."""
        return _SILENCE * self.seconds

    @property
    def grace(self) -> float:
        """Seconds that MPI gets for ending the job before its processes are killed."""
        return max(_LEAST_GRACE, _GRACE * self.seconds)
