"""The options of each program."""

from dataclasses import dataclass, field
from pathlib import Path

from tpi_mpi.common.deadline import Deadline
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.limits import at_least_one
from tpi_mpi.common.options.machine import DEFAULT_TIMEOUT, MachineOptions
from tpi_mpi.common.options.sampling import DEFAULT_NEW_TOKENS, SamplingOptions


class _RankOptions:
    """What all programs that run a model on several ranks have in their options."""

    machine: MachineOptions

    @property
    def deadline(self) -> Deadline:
        return self.machine.deadline


@dataclass(frozen=True)
class GenerateOptions(_RankOptions):
    """The options of tpi_mpi.generate. Raises UserError for combinations that are not allowed.

    json_schema: a file of rank 0's, for prompts that have no schema of their own.
    """

    slabs: Path
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    machine: MachineOptions = field(default_factory=MachineOptions)
    prompt: str | None = None
    prompts: str | None = None
    output: str | None = None
    chat: bool = False
    system: str | None = None
    logprobs: bool = False
    skip_bad: bool = False
    json_schema: Path | None = None

    def __post_init__(self):
        if (self.prompt is None) == (self.prompts is None):
            raise UserError("give either --prompt TEXT or --prompts FILE")
        if self.system is not None and not self.chat:
            raise UserError("--system needs --chat: without a chat there is no system prompt")
        if self.skip_bad and self.prompts is None:
            raise UserError("--skip-bad needs --prompts FILE, of which it skips lines")
        if self.prompts is None and self.output is None:
            self._refuse_logprobs()

    def _refuse_logprobs(self) -> None:
        """Raises UserError if log-probabilities are asked for, when there is nowhere to write them."""
        sampling = self.sampling
        wanted = {"": self.logprobs, "prompt-": sampling.prompt_logprobs, "top-": sampling.top_logprobs}
        for kind, asked in wanted.items():
            if asked:
                raise UserError(f"--{kind}logprobs are written to the output file; give --output FILE too")


@dataclass(frozen=True)
class BackendOptions(_RankOptions):
    """The options of tpi_mpi.backend.

    socket: where the server listens. longest: positions of the longest sequence, or None for a default.
    """

    slabs: Path
    socket: str
    machine: MachineOptions = field(default_factory=MachineOptions)
    longest: int | None = None

    def __post_init__(self):
        at_least_one(self, "longest")


@dataclass(frozen=True)
class ServeOptions:
    """The options of tpi_mpi.serve.

    ranks: of the engine, which ``mpirun`` starts, on the hosts of ``hostfile`` if there is one. command: its command
        line, but for the socket. engine: what that says.
    host, port: where to listen; any free port if that is 0. ready_file: gets the address once the server listens.
    api_key_file: a file with the keys of clients, one a line. no_api_key: whether others than this machine's need none.
    cors: origins of web pages that may use the server. model_name: None for that of the checkpoint.
    queue: the most sequences that may wait. drain: seconds that requests under way have at the end.
    restarts: how often in a row a lost engine is started again.
    log_prompts: whether prompts are written to the log.

    Raises UserError for a value that is not allowed.
    """

    engine: BackendOptions
    command: tuple[str, ...]
    ranks: int
    hostfile: Path | None = None
    mpirun: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    ready_file: Path | None = None
    api_key_file: Path | None = None
    no_api_key: bool = False
    cors: tuple[str, ...] = ()
    model_name: str | None = None
    queue: int = 64
    drain: float = 30.0
    restarts: int = 5
    log_prompts: bool = False

    def __post_init__(self):
        at_least_one(self, "ranks", "queue")
        for name, least, most in (("port", 0, 65535), ("restarts", 0, 1_000_000), ("drain", 0, 86_400)):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"--{name} is {getattr(self, name)}; a number from {least} to {most} is needed")


@dataclass(frozen=True)
class BenchOptions(_RankOptions):
    """The options of tpi_mpi.bench: the length of the prompt, and how many tokens to generate after it."""

    slabs: Path
    machine: MachineOptions = field(default_factory=MachineOptions)
    prompt_tokens: int = 64
    new_tokens: int = 16

    def __post_init__(self):
        at_least_one(self, "prompt_tokens", "new_tokens")


@dataclass(frozen=True)
class CheckOptions(_RankOptions):
    """The options of tpi_mpi.check: whether the machines can run a prompt and new tokens of these lengths."""

    slabs: Path
    machine: MachineOptions = field(default_factory=MachineOptions)
    prompt_tokens: int = 64
    new_tokens: int = DEFAULT_NEW_TOKENS
    ignored_keys: tuple[str, ...] = ()

    def __post_init__(self):
        at_least_one(self, "prompt_tokens", "new_tokens")


@dataclass(frozen=True)
class ScatterOptions:
    """The options of weights_tools.scatter, which copies slabs from rank 0's machine to ``target`` on every machine.

    verify: whether slabs that are already in place are read to the end and compared with their checksums.
    timeout: seconds within which the job ends when a machine is lost or a disk hangs.
    """

    slabs: Path
    target: Path
    verify: bool = False
    timeout: float = DEFAULT_TIMEOUT

    def __post_init__(self):
        at_least_one(self, "timeout")

    @property
    def deadline(self) -> Deadline:
        return Deadline(self.timeout)
