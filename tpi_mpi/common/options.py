"""What the user asked for: immutable, and checked once."""

from dataclasses import dataclass, fields, replace
from math import isfinite
from pathlib import Path

from tpi_mpi.common.deadline import Deadline
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.sampling_values import biases, schema_text, strings

DEFAULT_NEW_TOKENS = 256
DEFAULT_TIMEOUT = 60.0
MOST_TOP_LOGPROBS = 100
ALLREDUCES = ("star", "direct", "reduce-scatter", "auto", "mpi")
WIRES = ("float32", "bfloat16", "float16", "int8")
KV_DTYPES = ("float32", "bfloat16", "float16")
NO_DRAFT, LOOKUP, SELF = "none", "lookup", "self"
"""What drafts: nothing; what was said before; a copy of the model. Anything else is a directory."""
ACTIVATIONS = ("int16", "int8")
"""Of how many bits activations are where weights are integers, which are multiplied in integers."""


# Options that may be given in several forms, of which one is kept.
_FORMS = {"stop": strings, "logit_bias": biases, "json_schema": schema_text}


@dataclass(frozen=True)
class SamplingOptions:
    """How one request is continued. None means what the checkpoint's generation_config.json says, or else off.

    max_new_tokens: None for as many as the context has room for, up to DEFAULT_NEW_TOKENS; 0 only scores the prompt.
    temperature: 0 takes the most probable token every time.
    seed: None draws a new one for each run.
    prompt_logprobs: whether the prompt's tokens get log-probabilities as well.
    top_logprobs: of how many of the most probable tokens there are log-probabilities, at every position.
    min_p: rules out tokens with less than this part of the probability of the most probable one.
    presence_penalty, frequency_penalty: taken from the logits of tokens that have been generated, once or every time.
    logit_bias: numbers that are added to the logits of some tokens, by their ids; kept as pairs, in order.
    json_schema: what the answer is to be: a JSON schema, as an object or its text; kept as text.

    Raises UserError for a value that is not allowed.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    prompt_logprobs: bool = False
    top_logprobs: int = 0
    min_p: float | None = None
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    json_schema: str | None = None

    def __post_init__(self):
        for name, form in _FORMS.items():
            object.__setattr__(self, name, form(getattr(self, name)))
        if not isinstance(self.prompt_logprobs, bool):
            raise UserError(f"prompt_logprobs is {self.prompt_logprobs!r}; true or false is needed")
        if self.max_new_tokens == 0 and not self.prompt_logprobs:
            raise UserError("max_new_tokens is 0; at least 1 is needed, or 0 together with prompt_logprobs")
        self._whole("max_new_tokens", 0 if self.prompt_logprobs else 1)
        self._whole("top_logprobs", 0, MOST_TOP_LOGPROBS)
        self._whole("top_k", 1)
        self._whole("seed", 0)
        self._number("temperature", 0, None)
        self._number("top_p", 0, 1)
        self._number("min_p", 0, 1)
        self._number("presence_penalty", -2, 2)
        self._number("frequency_penalty", -2, 2)
        self._number("repetition_penalty", 0, None)
        if self.top_p == 0 or self.repetition_penalty == 0:
            raise UserError("top_p and repetition_penalty must be greater than 0")

    def _whole(self, name: str, least: int, most: int | None = None) -> None:
        value = getattr(self, name)
        if value is None and most is None:
            return
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < least or (most is not None and value > most):
            limits = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise UserError(f"{name} is {value!r}; a whole number {limits} is needed")

    def _number(self, name: str, least: float, most: float | None) -> None:
        value = getattr(self, name)
        if value is None:
            return
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value < float("inf") or (most is not None and value > most):
            raise UserError(f"{name} is {value!r}; a number from {least} {f'to {most}' if most else 'up'} is needed")

    def override(self, values: dict[str, object]) -> "SamplingOptions":
        """A copy of these options with some replaced. Raises UserError for a value that is not allowed."""
        return replace(self, **values)


SAMPLING_KEYS = tuple(entry.name for entry in fields(SamplingOptions))


def _at_least_one(options: object, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if value is None:
            continue
        what = f"--{name.replace('_', '-')} is {value}"
        if not isfinite(value):
            raise UserError(f"{what}; a finite number of at least 1 is needed")
        if value < 1:
            raise UserError(f"{what}; at least 1 is needed")


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
        _at_least_one(self, "window", "threads", "timeout", "batch")
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
    sampling: SamplingOptions = SamplingOptions()
    machine: MachineOptions = MachineOptions()
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
    machine: MachineOptions = MachineOptions()
    longest: int | None = None

    def __post_init__(self):
        _at_least_one(self, "longest")


@dataclass(frozen=True)
class ServeOptions:
    """The options of tpi_mpi.serve.

    ranks: of the engine, which ``mpirun`` starts, on the hosts of ``hostfile`` if there is one, with what follows the
        slabs on its command line, ``engine``.
    host, port: where to listen; any free port if that is 0. ready_file: gets the address once the server listens.
    api_key_file: a file with the keys of clients, one a line. no_api_key: whether others than this machine's need none.
    cors: origins of web pages that may use the server. model_name: None for that of the checkpoint.
    queue: the most sequences that may wait. drain: seconds that requests under way have at the end.
    restarts: how often in a row a lost engine is started again.
    log_prompts: whether prompts are written to the log.

    Raises UserError for a value that is not allowed.
    """

    slabs: Path
    ranks: int
    engine: tuple[str, ...] = ()
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
        _at_least_one(self, "ranks", "queue")
        for name, least, most in (("port", 0, 65535), ("restarts", 0, 1_000_000), ("drain", 0, 86_400)):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"--{name} is {getattr(self, name)}; a number from {least} to {most} is needed")


@dataclass(frozen=True)
class BenchOptions(_RankOptions):
    """The options of tpi_mpi.bench: the length of the prompt, and how many tokens to generate after it."""

    slabs: Path
    machine: MachineOptions = MachineOptions()
    prompt_tokens: int = 64
    new_tokens: int = 16

    def __post_init__(self):
        _at_least_one(self, "prompt_tokens", "new_tokens")


@dataclass(frozen=True)
class CheckOptions(_RankOptions):
    """The options of tpi_mpi.check: whether the machines can run a prompt and new tokens of these lengths."""

    slabs: Path
    machine: MachineOptions = MachineOptions()
    prompt_tokens: int = 64
    new_tokens: int = DEFAULT_NEW_TOKENS
    ignored_keys: tuple[str, ...] = ()

    def __post_init__(self):
        _at_least_one(self, "prompt_tokens", "new_tokens")


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
        _at_least_one(self, "timeout")

    @property
    def deadline(self) -> Deadline:
        return Deadline(self.timeout)


MACHINE_KEYS = tuple(entry.name for entry in fields(MachineOptions))
