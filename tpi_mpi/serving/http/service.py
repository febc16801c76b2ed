"""Requests of the protocol turned into sequences to continue."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.json_object import shorten
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.intake import Intake
from tpi_mpi.engine.request import Request
from tpi_mpi.serving.dialects.dialect import dialect_of
from tpi_mpi.serving.dialects.thinking import opens_reasoning
from tpi_mpi.serving.protocol.chat import ChatBody, ChatStyle
from tpi_mpi.serving.protocol.choice import Choice
from tpi_mpi.serving.protocol.completions import CompletionBody, CompletionStyle, Prompt
from tpi_mpi.serving.protocol.fields import Fields, seeds
from tpi_mpi.serving.protocol.order import Order, Style
from tpi_mpi.serving.protocol.tokenization import TokenizeBody
from tpi_mpi.serving.refusal import Refusal
from tpi_mpi.tokenizer.conversation import Conversation

Result = TypeVar("Result")
# Characters of a JSON schema, at most.
_MOST_SCHEMA = 1 << 18


@dataclass(frozen=True)
class Service:
    """Takes in requests to one model. Tokenizers and templates work in threads, while others are answered.

    model: what clients call it. most: sequences that one request may ask for.
    """

    intake: Intake
    model: str
    most: int

    @property
    def longest(self) -> int:
        """Positions of the longest sequence."""
        return self.intake.longest

    def check_model(self, name: str | None) -> None:
        """Raises Refusal for another model than this."""
        if name not in (None, self.model):
            sentence = f"the model {shorten(name)} is not here; this server has {self.model!r}"
            raise Refusal(404, sentence, "not_found_error", "model")

    async def completions(self, body: CompletionBody) -> Order:
        """What a request for completions comes to. Raises Refusal if it cannot be done."""
        return await self._thought(lambda: self._completions(body))

    async def chat(self, body: ChatBody) -> Order:
        """What a request for the next message comes to. Raises Refusal if it cannot be done."""
        return await self._thought(lambda: self._chat(body))

    async def tokens(self, body: TokenizeBody) -> list[int]:
        """The token ids of a text or a conversation. Raises Refusal if there is neither, or no tokenizer."""
        self.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise Refusal(400, "either prompt, a text, or messages is needed")
        if body.prompt is not None:
            return await self._thought(lambda: self.intake.tokens(body.prompt, body.add_special_tokens))
        conversation = Conversation(tuple(body.messages), tuple(body.tools or ()))
        return await self._thought(lambda: self.intake.tokens(conversation))

    async def _thought(self, think: Callable[[], Result]) -> Result:
        try:
            return await asyncio.to_thread(think)
        except UserError as error:
            raise Refusal.of(error) from None

    def _completions(self, body: CompletionBody) -> Order:
        prompts = body.prompts()
        self._check(body, len(prompts))
        sampling = body.settled(self.intake.temperature)
        echo = bool(body.echo)
        requests = [self._requests(prompt, sampling, body.count) for prompt in prompts]
        texts = [self._text(prompt) if echo or body.scored else "" for prompt in prompts]
        style = CompletionStyle(self.intake.spell, echo, body.scored)
        return self._order(body, style, requests, texts)

    def _chat(self, body: ChatBody) -> Order:
        self._check(body, 1)
        tools, sampling = body.tool_names(), body.settled(self.intake.temperature)
        if len(sampling.json_schema or "") > _MOST_SCHEMA:
            raise Refusal(400, f"the schema has more than {_MOST_SCHEMA} characters", parameter="response_format")
        dialect = dialect_of(self.intake.chat_template(bool(tools)))
        text = self.intake.rendered(body.conversation())
        opened = opens_reasoning(text) and sampling.json_schema is None  # a schema leaves no room for reasoning
        requests = [self._requests(text, sampling, body.count, whole=False)]  # the template has all special tokens
        readers = [dialect.reader(tools, opened) for _ in requests[0]]
        style = ChatStyle(self.intake.spell, readers, bool(body.logprobs), body.parallel_tool_calls is not False)
        return self._order(body, style, requests, [""], dialect.marked)

    def _check(self, body: Fields, prompts: int) -> None:
        """Raises Refusal for parameters that are not known, another model, or too many sequences."""
        body.refuse_unknown()
        self.check_model(body.model)
        if prompts * body.count > self.most:
            sentence = f"{prompts * body.count} sequences in one request; at most {self.most} may be asked for at once"
            raise Refusal(400, sentence)

    def _requests(self, prompt: Prompt, sampling: SamplingOptions, count: int, whole: bool = True) -> list[Request]:
        """As many requests for the same prompt. whole: as of :meth:`tpi_mpi.engine.intake.Intake.request`."""
        first = self.intake.request(prompt, sampling, whole)
        return [replace(first, sampling=replace(first.sampling, seed=seed)) for seed in seeds(first.sampling, count)]

    def _text(self, prompt: Prompt) -> str:
        return prompt if isinstance(prompt, str) else self.intake.text(prompt)

    def _order(
        self,
        body: Fields,
        style: Style,
        requests: Sequence[Sequence[Request]],
        texts: Sequence[str],
        marked: bool = False,
    ) -> Order:
        """requests: of each prompt. texts: of each prompt, as far as they are needed."""
        choices: list[Choice] = []
        for place, (own, text) in enumerate(zip(requests, texts, strict=True)):
            for request in own:
                completion = self.intake.completion(request, marked)
                choices.append(Choice(len(choices), place, request, completion, text))
        return Order(style, self.model, choices, bool(body.stream), body.include_usage)
