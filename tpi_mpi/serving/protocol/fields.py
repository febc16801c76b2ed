"""What all requests for text have in common."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.serving.refusal import Refusal

# Parameters that change no text, and values with which others change none.
_HARMLESS = frozenset(
    """user store metadata service_tier prediction safety_identifier prompt_cache_key prompt_cache_retention request_id
    cache_prompt""".split()
)
_NEUTRAL = {"suffix": ("",), "best_of": (1,), "modalities": (["text"],), "functions": ([],), "ignore_eos": (False,)}
_NEUTRAL |= {"min_tokens": (0,), "stop_token_ids": ([],), "use_beam_search": (False,), "length_penalty": (1,)}
# Larger than any vocabulary.
_ALL_TOKENS = 2**31 - 1


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
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def refuse_unknown(self) -> None:
        """Raises Refusal for a parameter that is not known and might change the answer."""
        for key, value in (self.model_extra or {}).items():
            if value is not None and key not in _HARMLESS and value not in _NEUTRAL.get(key, ()):
                raise Refusal(400, f"the parameter {key!r} is not supported; leave it out", parameter=key)

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
        values: dict[str, object] = {
            "max_new_tokens": self.max_tokens,
            "temperature": temperature if self.temperature is None else self.temperature,
            "top_k": _ALL_TOKENS if self.top_k is not None and self.top_k < 1 else self.top_k,
            "top_p": 1.0 if self.top_p == 0 else self.top_p,
            "seed": None if self.seed is None else self.seed % 2**63,
            "stop": self.stop or (),
        }
        for key in ("repetition_penalty", "min_p", "presence_penalty", "frequency_penalty", "logit_bias"):
            if getattr(self, key) is not None:
                values[key] = getattr(self, key)
        try:
            return SamplingOptions().override(values | further)
        except UserError as error:
            raise Refusal.of(error) from None


def seeds(sampling: SamplingOptions, count: int) -> list[Mapping[str, int]]:
    """What sets apart the answers to one prompt, if they are drawn with a seed that the client chose."""
    if sampling.seed is None:
        return [{}] * count
    return [{"seed": (sampling.seed + place) % 2**63} for place in range(count)]
