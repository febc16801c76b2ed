"""What a model answers."""

from dataclasses import dataclass

from tpi_mpi.engine.generation import Answer

Top = list[tuple[int, float]]
"""The most probable tokens, with their log-probabilities."""


@dataclass(frozen=True)
class Completion:
    """The answer to one request.

    index: the request's number. text, token_ids: what was generated. finish_reason: ``stop`` or ``length``.
    logprobs: of the generated tokens, by the model itself. top_logprobs: beside each, the most probable ones, if they
        were asked for.
    prompt_logprobs, prompt_top_logprobs: the same for the prompt, if that was asked for; None for its first token.
    cached_tokens: tokens of the prompt whose keys and values were there already.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[float]
    top_logprobs: list[Top]
    prompt_logprobs: list[float | None]
    prompt_top_logprobs: list[Top | None]
    cached_tokens: int

    @classmethod
    def of(cls, answer: Answer) -> "Completion":
        completion, scores = answer.completion, answer.prompt_scores
        return cls(
            index=answer.key,
            text=completion.text,
            token_ids=[token.id for token in completion.tokens],
            finish_reason=completion.finish_reason,
            logprobs=[token.logprob for token in completion.tokens],
            top_logprobs=[list(token.top) for token in completion.tokens],
            prompt_logprobs=[None, *(score.logprob for score in scores)] if answer.scored else [],
            prompt_top_logprobs=[None, *(list(score.top) for score in scores)] if answer.scored else [],
            cached_tokens=answer.cached_tokens,
        )
