"""What all requests for text have in common."""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.json_object import shorten
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.serving.refusal import Refusal

_ANY = object()
# Values that change no answer, of parameters that are not known otherwise.
_NEUTRAL: Mapping[str, tuple] = {
    "user": (_ANY,),
    "store": (_ANY,),
    "metadata": (_ANY,),
    "service_tier": (_ANY,),
    "prediction": (_ANY,),
    "safety_identifier": (_ANY,),
    "prompt_cache_key": (_ANY,),
    "prompt_cache_retention": (_ANY,),
    "request_id": (_ANY,),
    "cache_prompt": (_ANY,),
    "suffix": ("",),
    "best_of": (1,),
    "modalities": (["text"],),
    "functions": ([],),
    "function_call": ("none",),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "stop_token_ids": ([],),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}
# What a request may have at most: stop strings and their characters, tokens with a bias.
_MOST_STOPS, _MOST_CHARACTERS, _MOST_BIASES = 16, 1000, 1024
# Larger than any vocabulary.
_ALL_TOKENS = 2**31 - 1

Item = TypeVar("Item")
Many = Annotated[list[Item], Field(fail_fast=True)]
"""A list whose first wrong item is enough to refuse it: a body has room for millions."""


class StreamOptions(BaseModel):
    """include_usage: whether the last event counts the tokens."""

    model_config = ConfigDict(strict=True)
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Fields(BaseModel):
    """Parameters as OpenAI's reference has them, and those that vLLM and llama.cpp have added.

    None, which JSON calls null, is the same as nothing.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict | None = None
    seed: int | None = None
    stop: str | Many[str] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def refuse_unknown(self) -> None:
        """Raises Refusal for a parameter that is not known and might change the answer."""
        for key, value in (self.model_extra or {}).items():
            neutral = _NEUTRAL.get(key, ())
            if value is not None and _ANY not in neutral and value not in neutral:
                raise Refusal(400, f"the parameter {shorten(key)} is not supported; leave it out", parameter=key[:60])

    @property
    def count(self) -> int:
        """How many answers are wanted to each prompt. Raises Refusal unless there are any."""
        if self.n is not None and self.n < 1:
            raise Refusal(400, f"n is {self.n}; at least 1 is needed", parameter="n")
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, temperature: float, **further: object) -> SamplingOptions:
        """The options of sampling. Raises Refusal for a value that is not allowed.

        temperature: for a request that names none. further: options that are not among these parameters.
        """
        self._check_sizes()
        values: dict[str, object] = {
            "max_new_tokens": unlimited(self.max_tokens),
            "temperature": temperature if self.temperature is None else self.temperature,
            "top_k": _ALL_TOKENS if self.top_k is not None and self.top_k < 1 else self.top_k,
            "top_p": self.top_p,
            "seed": None if self.seed in (None, -1) else self.seed % 2**63,
            "stop": self.stop or (),
        }
        if self.top_p == 0:  # no part of the probability: the likeliest token alone
            values |= {"top_p": None, "top_k": 1}
        for key in ("repetition_penalty", "min_p", "presence_penalty", "frequency_penalty", "logit_bias"):
            if getattr(self, key) is not None:
                values[key] = getattr(self, key)
        try:
            return SamplingOptions().override(values | further)
        except UserError as error:
            raise _told(error) from None

    def _check_sizes(self) -> None:
        """Raises Refusal for more than one request should keep all others waiting with."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > _MOST_STOPS or any(len(text) > _MOST_CHARACTERS for text in stops):
            most = f"at most {_MOST_STOPS} strings of at most {_MOST_CHARACTERS} characters"
            raise Refusal(400, f"stop is too long; {most} are possible", parameter="stop")
        if len(self.logit_bias or {}) > _MOST_BIASES:
            sentence = f"logit_bias has {len(self.logit_bias)} tokens; at most {_MOST_BIASES} are possible"
            raise Refusal(400, sentence, parameter="logit_bias")


def unlimited(tokens: int | None) -> int | None:
    """How many tokens are wanted at most, where -1 means the same as nothing."""
    return None if tokens == -1 else tokens


def _told(error: UserError) -> Refusal:
    """A mistake in the options of sampling, by the name that the client gave."""
    sentence = str(error).replace("max_new_tokens", "max_tokens").partition(", or 0 together")[0]
    named = sentence.partition(" ")[0]
    return Refusal(400, sentence, parameter=named if named in Fields.model_fields else None)


def seeds(sampling: SamplingOptions, count: int) -> list[int]:
    """The seeds of several answers to one prompt. sampling: with the first of them."""
    return [(sampling.seed + place) % 2**63 for place in range(count)]
