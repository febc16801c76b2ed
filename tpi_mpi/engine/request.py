"""What the engine is given, and what it returns: a request, its tokens one by one, and scores of its prompt."""

from dataclasses import dataclass, field

from tpi_mpi.common.options.sampling import SamplingOptions


@dataclass(frozen=True)
class Token:
    """One generated token.

    logprob: its log-probability by the model itself, before temperature and the like.
    seconds: how long it took; for a request's first token, that is the TTFT.
    finish_reason: None while the sequence continues; ``stop`` after an end-of-text token, or where its schema leaves
        nothing to say; ``length`` at the limit.
    top: the most probable tokens with their log-probabilities, as many as ``top_logprobs`` asks for.
    """

    id: int
    logprob: float
    seconds: float
    finish_reason: str | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Score:
    """What the model itself thought of one token of a prompt, given those before it. logprob, top: as in Token."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Request:
    """One sequence to continue, with every option settled: max_new_tokens and seed are set."""

    token_ids: tuple[int, ...]
    sampling: SamplingOptions
    eos_token_ids: frozenset[int] = field(default_factory=frozenset)

    @property
    def length(self) -> int:
        """Positions of the finished sequence, except that of the last new token, which is never read."""
        return len(self.token_ids) + max(0, self.sampling.max_new_tokens - 1)

    def finish_reason(self, token_id: int, count: int) -> str | None:
        """Why the sequence ends with this token, the ``count``-th new one; None if it continues."""
        if token_id in self.eos_token_ids:
            return "stop"
        return "length" if count == self.sampling.max_new_tokens else None
