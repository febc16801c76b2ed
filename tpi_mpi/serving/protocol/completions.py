"""Requests that continue a text, and their answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.serving.protocol.choice import Choice, Delta
from tpi_mpi.serving.protocol.fields import Fields, unlimited
from tpi_mpi.serving.protocol.logprobs import Spell, of_completion
from tpi_mpi.serving.refusal import Refusal

_DEFAULT_TOKENS = 16  # OpenAI's
Prompt = str | list[int]


class CompletionBody(Fields):
    """A request for completions. logprobs: how many of the most probable tokens are wanted beside each."""

    prompt: str | list
    echo: bool | None = None
    logprobs: int | bool | None = None

    def prompts(self) -> Sequence[Prompt]:
        """The texts or token ids to continue. Raises Refusal if there are none, or something else."""
        if not self.prompt:
            raise Refusal(400, "the prompt is empty; at least one token is needed", parameter="prompt")
        several = isinstance(self.prompt, list) and isinstance(self.prompt[0], str | list)
        prompts = self.prompt if several else [self.prompt]
        if not all(isinstance(prompt, str) or _are_ids(prompt) for prompt in prompts):
            raise Refusal(400, "the prompt must be a text, token ids, or a list of either", parameter="prompt")
        return prompts

    @property
    def scored(self) -> bool:
        """Whether log-probabilities are wanted."""
        return self.logprobs is not None and self.logprobs is not False

    def asked(self) -> object:
        """What the log has of it, if prompts are to be there."""
        return self.prompt

    def settled(self, temperature: float) -> SamplingOptions:
        """The options of sampling. temperature: for a request that names none. Raises Refusal."""
        most = _DEFAULT_TOKENS if self.max_tokens is None else unlimited(self.max_tokens)
        scored = most == 0 or bool(self.echo and self.scored)
        top = int(self.logprobs or 0)
        return self.sampling(temperature, max_new_tokens=most, prompt_logprobs=scored, top_logprobs=top)


def _are_ids(prompt: object) -> bool:
    """Whether it is a list of whole numbers. Which of them are tokens is seen later."""
    return isinstance(prompt, list) and all(type(id) is int for id in prompt)


@dataclass(frozen=True)
class CompletionStyle:
    """How completions are written. echo: whether with their prompts. logprobs: whether with log-probabilities."""

    spell: Spell
    echo: bool
    logprobs: bool
    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def opening(self, choice: Choice) -> None:
        """A prompt's scores come with the first token: nothing is said before."""

    def chunk(self, choice: Choice, delta: Delta) -> list[dict]:
        if not (delta.text or delta.finish_reason or (self.logprobs and delta.tokens)):
            return []
        return [self.whole(choice, delta)]

    def whole(self, choice: Choice, delta: Delta) -> dict:
        text = self._prompt(choice) + delta.text
        logprobs = self._logprobs(choice, delta) if self.logprobs else None
        choice.started = True
        return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish_reason}

    def _prompt(self, choice: Choice) -> str:
        return choice.text if self.echo and not choice.started else ""

    def _logprobs(self, choice: Choice, delta: Delta) -> dict:
        echoed = self.echo and not choice.started
        first = choice.request.token_ids[0] if echoed else None
        tokens = [*delta.scores, *delta.tokens] if echoed else delta.tokens
        before = 0 if self.echo or choice.started else len(choice.text)
        logprobs = of_completion(self.spell, first, tokens, choice.length + before)
        choice.length += before + sum(map(len, logprobs["tokens"]))
        return logprobs
