"""How one request is continued."""

from dataclasses import dataclass, fields, replace

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.values import biases, schema_text, strings

DEFAULT_NEW_TOKENS = 256
MOST_TOP_LOGPROBS = 100

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
        self._number("repetition_penalty", 0.01, 100)
        if self.top_p == 0:
            raise UserError("top_p is 0; a number greater than 0 is needed")

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
