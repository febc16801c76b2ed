"""How a run uses the machines."""

from dataclasses import dataclass, fields
from pathlib import Path

from tpi_mpi.common.deadline import Deadline
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.limits import at_least_one

DEFAULT_TIMEOUT = 60.0
ALLREDUCES = ("star", "direct", "reduce-scatter", "auto", "mpi")
WIRES = ("float32", "bfloat16", "float16", "int8")
KV_DTYPES = ("float32", "bfloat16", "float16")
NO_DRAFT, LOOKUP, SELF = "none", "lookup", "self"
"""What drafts: nothing; what was said before; a copy of the model. Anything else is a directory."""
ACTIVATIONS = ("int16", "int8")
"""Of how many bits activations are where weights are integers, which are multiplied in integers."""

# What some machine options may be; the command line refuses anything else itself, programs in Python do not.
_CHOICES = {"allreduce": ALLREDUCES, "wire": WIRES, "activations": ACTIVATIONS, "kv": (None, *KV_DTYPES)}


@dataclass(frozen=True)
class MachineOptions:
    """How a run uses the machines, and what it reports about them.

    memory: peak resident bytes a rank may reach, or None for its share of what the machine has free.
    window: blocks in memory besides the pinned ones, or None for the program's choice.
    wire: the dtype in which partial results travel. overlap: whether a prompt's sums overlap with computation.
    timeout: seconds within which the job ends when a machine is lost or a disk hangs.
    threads: threads per rank, or None for its share of the host's cores.
    activations: one of :data:`ACTIVATIONS`.
    batch: the most sequences at once, or None for the program's choice. kv: dtype of keys and values, or None.
    draft: what drafts tokens: ``none``, or with commas between them ``lookup`` and either ``self`` or a directory of
        slabs.
    share_prefixes: whether sequences that begin alike have the keys and values of that in common.
    grammar: whether rank 0 sets memory aside for answers that follow a JSON schema.
    report, trace: files to write, or None.

    Raises UserError for a value that is not allowed.
    """

    memory: int | None = None
    window: int | None = None
    allreduce: str = "star"
    wire: str = "float32"
    overlap: bool = True
    timeout: float = DEFAULT_TIMEOUT
    threads: int | None = None
    activations: str = "int16"
    batch: int | None = None
    kv: str | None = None
    draft: str = LOOKUP
    share_prefixes: bool = True
    grammar: bool = False
    report: Path | None = None
    trace: Path | None = None

    def __post_init__(self):
        at_least_one(self, "window", "threads", "timeout", "batch")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(f"--{name} is {getattr(self, name)!r}; it is one of {', '.join(filter(None, known))}")
        self._check_draft()
        if self.allreduce == "mpi" and self.wire != "float32":
            raise UserError(
                f"--wire {self.wire} cannot be used with --allreduce mpi, which adds in float32; "
                "choose another --allreduce"
            )

    def _check_draft(self) -> None:
        names = self.draft.split(",")
        others = [name for name in names if name not in (NO_DRAFT, LOOKUP)]
        alone = NO_DRAFT not in names or len(names) == 1
        if not (all(names) and alone and len(others) <= 1 and len(set(names)) == len(names)):
            raise UserError(
                f"--draft is {self.draft!r}; it is none, lookup, self or a directory of slabs, or lookup together with "
                "one of the last two, as in lookup,self"
            )

    @property
    def looks_up(self) -> bool:
        """Whether drafts come from what was said before."""
        return LOOKUP in self.draft.split(",")

    @property
    def draft_model(self) -> str | None:
        """``self``, a directory of slabs, or None: what model drafts."""
        return next((name for name in self.draft.split(",") if name not in (NO_DRAFT, LOOKUP)), None)

    @property
    def deadline(self) -> Deadline:
        return Deadline(self.timeout)

    @property
    def planes(self) -> int:
        """Bytes of an activation where weights are integers."""
        return 1 + ACTIVATIONS[::-1].index(self.activations)


MACHINE_KEYS = tuple(entry.name for entry in fields(MachineOptions))
