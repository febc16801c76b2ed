"""What a user asks for turned into a request that the engine takes, and the request's tokens into text."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from operator import index, itemgetter
from pathlib import Path
from secrets import randbits

from tpi_mpi.common.errors import CheckpointError, TooLong, UserError
from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.common.options.sampling import DEFAULT_NEW_TOKENS, SamplingOptions
from tpi_mpi.engine.completion import Completion
from tpi_mpi.engine.request import Request
from tpi_mpi.engine.sampling.grammars import check_grammars, check_schema
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.tokenizer.conversation import Conversation
from tpi_mpi.tokenizer.tokenizer import Tokenizer

# What generation_config.json says for a request that leaves it open.
_DEFAULTS = ("top_k", "top_p", "min_p", "repetition_penalty")

# Of a token, at most, on average.
_MOST_CHARACTERS = 256


class Intake:
    """Takes in what users ask for. The tokenizer is read when it is first needed.

    slabs: the directory that has the checkpoint's tokenizer and generation_config.json.
    longest: positions of the longest sequence that there is memory for, or None for as many as the context has.
    served: whether requests come from clients of a server, which know neither of these limits: one for more new tokens
        than there is room for gets what there is, and one that names no number a quarter of the longest.
    temperature: for clients of a server that name none, as generation_config.json has it.

    Raises UserError, on construction, if generation_config.json is not understood.
    """

    def __init__(self, slabs: Path, config: ModelConfig, longest: int | None = None, served: bool = False):
        generation = _generation_config(slabs / "generation_config.json")
        self._slabs = slabs
        self._config = config
        self._defaults = _sampling_defaults(generation)
        self._eos_token_ids = frozenset(generation.token_ids("eos_token_id") or config.eos_token_id)
        self.longest = longest
        self._served = served
        self.temperature = generation.number("temperature") if generation.get("temperature") else 1.0

    def request(
        self, content: str | Sequence[int] | Conversation, sampling: SamplingOptions, whole: bool = True
    ) -> Request:
        """The request for a text or token ids to be continued, or for the next message of a conversation.

        whole: whether a text is to have the special tokens that enclose one.
        Raises CheckpointError if the checkpoint has no tokenizer or template for it; otherwise UserError if it cannot
        be done.
        """
        if sampling.stop:
            self._tokenizer()  # without one, stop strings would never be found
        if sampling.json_schema is not None:
            self._check_schema(sampling.json_schema)
        ids = self.tokens(content, whole) if isinstance(content, str | Conversation) else _whole_numbers(content)
        if not ids:
            raise UserError("the prompt is empty; at least one token is needed")
        self._check(ids)
        self._check([id for id, _ in sampling.logit_bias], "logit_bias: ")
        return Request(ids, self._settle(sampling, len(ids)), self._eos_token_ids)

    def tokens(self, content: str | Conversation, whole: bool = True) -> tuple[int, ...]:
        """The token ids of a text, or of what asks for the next message of a conversation. Raises as :meth:`request`.

        whole: whether those of a text have the special tokens that enclose one.
        """
        text = content if isinstance(content, str) else self.rendered(content)
        self._check_length(text)
        _check_characters(text)
        whole = whole and text is content  # a template has added all special tokens
        return tuple(self._tokenizer().encode(text, whole))

    def _check_length(self, text: str) -> None:
        """Raises TooLong for a text of a client's that is not worth the time to make it into tokens."""
        most = _MOST_CHARACTERS * self.longest if self._served else len(text)
        if len(text) > most:
            raise TooLong(f"the prompt has {len(text)} characters, more than {self.longest} positions hold; shorten it")

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids. Raises CheckpointError without a tokenizer."""
        return self._tokenizer().decode(ids)

    def spell(self, id: int) -> bytes:
        """The bytes that a token stands for. Raises CheckpointError without a tokenizer."""
        return self._tokenizer().bytes_of(id)

    def rendered(self, conversation: Conversation) -> str:
        """The text that asks for the next message of a conversation. Raises as :meth:`request`."""
        from tpi_mpi.tokenizer.chat_template import render_chat  # imports jinja2, which only a chat needs

        return render_chat(self._tokenizer(), conversation)

    def chat_template(self, tools: bool) -> str:
        """The checkpoint's template for conversations, with tools or without. Raises CheckpointError without one."""
        return self._tokenizer().chat_template(tools)

    def completion(self, request: Request, marks: bool = False) -> Completion:
        """An empty completion of a request, which turns its tokens into text if there is a tokenizer.

        marks: whether special tokens are part of the text, as they are spelled, except one that ends it.
        """
        loaded = self._loaded
        return Completion(loaded if isinstance(loaded, Tokenizer) else None, request, marks)

    @cached_property
    def _loaded(self) -> Tokenizer | UserError:
        """The tokenizer, or what is wrong with it: that only matters to whoever needs one."""
        try:
            return Tokenizer.load(self._slabs)
        except UserError as error:
            return error

    def _tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises CheckpointError if it could not be loaded."""
        if isinstance(self._loaded, Tokenizer):
            return self._loaded
        raise CheckpointError(str(self._loaded))

    def _check_schema(self, schema: str) -> None:
        """Raises UserError if a schema cannot be followed, CheckpointError if none can."""
        try:
            check_grammars(self._slabs)
        except UserError as error:
            raise CheckpointError(str(error)) from None
        check_schema(schema)

    def _check(self, ids: Sequence[int], whose: str = "") -> None:
        """Raises UserError unless the model knows all these tokens. whose: what the message begins with."""
        vocabulary = range(self._config.vocab_size)
        unknown = next((item for item in ids if item not in vocabulary), None)
        if unknown is not None:
            what = "negative" if unknown < 0 else f"not below the model's vocab_size {len(vocabulary)}"
            raise UserError(f"{whose}token id {unknown} is {what}")

    def _settle(self, sampling: SamplingOptions, count: int) -> SamplingOptions:
        """Fills in what the user left open, after a prompt of ``count`` tokens. Raises UserError if it is too long."""
        defaults = {key: value for key, value in self._defaults.items() if getattr(sampling, key) is None}
        seed = randbits(63) if sampling.seed is None else sampling.seed
        return replace(sampling, max_new_tokens=self._new_tokens(count, sampling.max_new_tokens), seed=seed, **defaults)

    def _new_tokens(self, count: int, wanted: int | None) -> int:
        """The limit on new tokens after ``count`` others, if so many are wanted. Raises UserError if it is too high."""
        least = 1 if wanted is None else min(wanted, 1)
        context = self._config.context_length
        limits = {f"the model's context of {context}": context - count}
        if self.longest is not None:  # which need not hold the last new token, as that is never read
            limits[f"this run's memory of {self.longest} positions"] = self.longest + least - count
        limit, room = min(limits.items(), key=itemgetter(1))
        if room < least:
            raise TooLong(f"the prompt has {count} tokens, and {limit} leaves no room; shorten it")
        if self._served:
            return min(room, max(DEFAULT_NEW_TOKENS, self.longest // 4) if wanted is None else wanted)
        new = min(DEFAULT_NEW_TOKENS, room) if wanted is None else wanted
        if new > room:
            raise UserError(
                f"{count} prompt tokens and {new} new ones exceed {limit}; give max_new_tokens {room} or fewer"
            )
        return new


def _generation_config(path: Path) -> JsonObject:
    """generation_config.json; an empty object if the checkpoint has none."""
    return JsonObject.load(path) if path.is_file() else JsonObject({}, str(path))


def _sampling_defaults(generation: JsonObject) -> dict[str, object]:
    """What generation_config.json says of sampling. Raises UserError for a value that is not allowed."""
    defaults = {key: value for key in _DEFAULTS if (value := generation.get(key))}
    try:
        SamplingOptions().override(defaults)
    except UserError as error:
        generation.refuse(f"cannot be used: {error}")
    return defaults


def _whole_numbers(ids: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(map(index, ids))
    except TypeError:
        raise UserError("the prompt's token ids are not all whole numbers") from None


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON may hold such halves, but tokenizers refuse them
        raise UserError("the prompt has half a surrogate pair, which is no character; leave it out") from None
