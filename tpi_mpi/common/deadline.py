"""How long a job waits for a machine or a disk that gives no sign, before it ends."""

from dataclasses import dataclass

# Of the time within which a job has to end, what may pass without a sign; the rest is for ending.
_SILENCE = 0.75
# MPI has so much of it to end the job everywhere, and at least a second.
_GRACE, _LEAST_GRACE = 0.05, 1.0


@dataclass(frozen=True)
class Deadline:
    """seconds: within which everything has ended, once a machine is lost or a disk hangs."""

    seconds: float

    @property
    def silence(self) -> float:
        """Seconds after which a machine or a disk that gave no sign counts as lost."""
        return _SILENCE * self.seconds

    @property
    def grace(self) -> float:
        """Seconds that MPI has for ending the job, before its processes are killed."""
        return max(_LEAST_GRACE, _GRACE * self.seconds)
