"""config.json, read strictly: a key that changes the result is understood or refused, never ignored."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from tpi_mpi.errors import UserError
from tpi_mpi.families import FAMILIES, Family

_REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")

COMMON_DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "eos_token_id": None,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rope_parameters": None,
    "original_max_position_embeddings": None,
}

# Keys without influence on the next token's probabilities: provenance, training, classification heads, the
# generation settings that old releases of transformers kept here, and ids that the tokenizer already knows.
_INERT = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures attention_dropout
    attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop encoder_no_repeat_ngram_size
    finetuning_task forced_bos_token_id forced_eos_token_id hidden_dropout id2label initializer_range label2id
    length_penalty max_length max_sequence_length max_window_layers min_length model_max_length model_type
    name_or_path no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences output_attentions
    output_hidden_states output_scores pad_token_id prefix pretraining_tp problem_type repetition_penalty
    resid_pdrop return_dict return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
    tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p unk_token_id unsloth_fixed
    unsloth_version use_cache
    """.split()
)
# Phi-4-mini states two settings that have one value only.
_INERT_VALUES = {"full_attn_mod": 1, "interpolate_factor": 1}

ACTIVATIONS = ("silu", "swish", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True)
class RopeParameters:
    """The rotary embedding's settings, under the names of config.json's rope_parameters."""

    rope_type: str = "default"
    rope_theta: float = 10000.0
    partial_rotary_factor: float = 1.0
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None


# rope_type -> (keys it needs, keys it may have)
_ROPE_KEYS = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "yarn": (("factor",), ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")),
    "longrope": (("short_factor", "long_factor"), ("factor", "attention_factor")),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ()),
}
_ROPE_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}
_ROPE_INERT = {"finetuned"}


@dataclass(frozen=True)
class ModelConfig:
    """One model's shape and switches. Fields that config.json has carry its names.

    sliding_windows: per layer, the number of positions a token attends to, or None for all.
    eos_token_id: every id that ends a text; empty where config.json names none.
    keys: the object of config.json as it was read, so that it can be stored and read again.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_act: str
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    eos_token_id: tuple[int, ...]
    rope: RopeParameters
    sliding_windows: tuple[int | None, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    keys: Mapping[str, object]

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @property
    def context_length(self) -> int:
        """Positions a text may fill, prompt included. Dynamic scaling exists to exceed the trained length."""
        stretch = self.rope.factor if self.rope.rope_type == "dynamic" else 1
        return int(self.max_position_embeddings * stretch)

    @classmethod
    def load(cls, path: Path) -> "ModelConfig":
        """Reads the config.json at this path. Raises UserError where it is absent, broken or not understood."""
        try:
            keys = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; a Hugging Face checkpoint has a config.json") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as JSON: {error}") from None
        return cls.from_keys(keys, str(path))

    @classmethod
    def from_keys(cls, keys: Mapping[str, object], origin: str = "config.json") -> "ModelConfig":
        """Makes the config of an object in config.json's format. Raises UserError where it is not understood."""
        reader = _Reader(keys, origin)
        return reader.config()


class _Reader:
    """Reads one config.json; every complaint names the file."""

    def __init__(self, keys: Mapping[str, object], origin: str):
        self.origin = origin
        if not isinstance(keys, dict):
            self.refuse("is not a JSON object")
        model_type = keys.get("model_type")
        if model_type not in FAMILIES:
            self.refuse(f"has model_type {model_type!r}; the supported ones are {', '.join(FAMILIES)}")
        self.raw = keys
        self.model_type = model_type
        self.family = FAMILIES[model_type]
        self.refuse_unknown()
        self.keys = {**COMMON_DEFAULTS, **self.family.defaults, **keys}

    def refuse(self, complaint: str):
        raise UserError(f"{self.origin} {complaint}")

    def refuse_unknown(self) -> None:
        if self.raw.get("quantization_config"):
            self.refuse("has a quantization_config; only unquantized checkpoints can be split")
        understood = {*_REQUIRED, *COMMON_DEFAULTS, *self.family.defaults, *_INERT}
        for key, value in self.raw.items():
            if key not in understood and value and _INERT_VALUES.get(key) != value:
                self.refuse(f"has the key {key!r} = {_shorten(value)}, which is not understood for {self.model_type}")

    def positive(self, key: str) -> int:
        value = self.keys.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.refuse(f"has {key} = {_shorten(value)}; a positive whole number is needed")
        return value

    def number(self, key: str, values: Mapping[str, object]) -> float:
        value = values.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            self.refuse(f"has {key} = {_shorten(value)}; a positive number is needed")
        return float(value)

    def flag(self, key: str) -> bool:
        if not isinstance(self.keys[key], bool):
            self.refuse(f"has {key} = {_shorten(self.keys[key])}; true or false is needed")
        return self.keys[key]

    def config(self) -> ModelConfig:
        sizes = {key: self.positive(key) for key in (*_REQUIRED, "max_position_embeddings")}
        heads = sizes["num_attention_heads"]
        kv_heads = heads if self.keys["num_key_value_heads"] is None else self.positive("num_key_value_heads")
        if heads % kv_heads:
            self.refuse(f"has {heads} num_attention_heads, which {kv_heads} num_key_value_heads do not divide")
        head_dim = self.head_dim(sizes["hidden_size"], heads)
        return ModelConfig(
            model_type=self.model_type,
            **sizes,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            hidden_act=self.activation(),
            rms_norm_eps=self.number("rms_norm_eps", self.keys),
            tie_word_embeddings=self.flag("tie_word_embeddings"),
            eos_token_id=self.token_ids("eos_token_id"),
            rope=self.rope(head_dim),
            sliding_windows=self.sliding_windows(),
            qkv_bias=self.family.qkv_bias(self.keys),
            output_bias=self.family.output_bias(self.keys),
            mlp_bias=self.family.mlp_bias(self.keys),
            keys=self.raw,
        )

    def head_dim(self, hidden_size: int, heads: int) -> int:
        if self.keys["head_dim"] is not None:
            head_dim = self.positive("head_dim")
        elif hidden_size % heads:
            self.refuse(f"has hidden_size {hidden_size}, which {heads} num_attention_heads do not divide")
        else:
            head_dim = hidden_size // heads
        if head_dim % 2:
            self.refuse(f"gives a head_dim of {head_dim}; the rotary embedding needs an even one")
        return head_dim

    def activation(self) -> str:
        name = self.keys["hidden_act"]
        if name not in ACTIVATIONS:
            self.refuse(f"has hidden_act {name!r}; the supported ones are {', '.join(ACTIVATIONS)}")
        return name

    def token_ids(self, key: str) -> tuple[int, ...]:
        return token_ids(self.keys[key], f"{self.origin} has {key}")

    def sliding_windows(self) -> tuple[int | None, ...]:
        layers = self.positive("num_hidden_layers")
        types = self.keys.get("layer_types")
        if types is not None and (len(types) != layers or not set(types) <= {"full_attention", "sliding_attention"}):
            self.refuse(f"has layer_types {_shorten(types)}; {layers} full_attention or sliding_attention are needed")
        if self.keys.get("sliding_window") is not None:
            self.positive("sliding_window")
        return self.family.sliding_windows(self.keys)

    def rope(self, head_dim: int) -> RopeParameters:
        """Both ways of writing it: rope_parameters, or rope_theta and rope_scaling at the top level."""
        given = dict(self.keys["rope_scaling"] or self.keys["rope_parameters"] or {})
        written = given.get("rope_type", given.get("type", "default"))
        rope_type = self.family.rope_renames.get(written, written)
        if rope_type not in _ROPE_KEYS:
            self.refuse(f"has rope_type {_shorten(rope_type)}; the supported ones are {', '.join(_ROPE_KEYS)}")
        needed, optional = _ROPE_KEYS[rope_type]
        for key, value in given.items():
            if key not in {*needed, *optional, *_ROPE_COMMON, *_ROPE_INERT} and value is not None:
                self.refuse(f"has {key!r} in its rope settings, which is not understood for rope_type {rope_type}")
        top_level = {"rope_theta": self.keys["rope_theta"]}
        if self.keys.get("partial_rotary_factor") is not None:
            top_level["partial_rotary_factor"] = self.keys["partial_rotary_factor"]
        values = {**top_level, **{key: value for key, value in given.items() if value is not None}}
        values["rope_type"] = rope_type
        if needed:
            values["original_max_position_embeddings"] = self.original_positions(given)
        return self.checked_rope(values, needed, head_dim)

    def original_positions(self, given: Mapping[str, object]) -> object:
        """The trained length: the top level's word counts before the rope settings'."""
        for source in (self.keys, given):
            if source.get("original_max_position_embeddings") is not None:
                return source["original_max_position_embeddings"]
        return self.keys["max_position_embeddings"]

    def checked_rope(self, values: Mapping[str, object], needed: tuple[str, ...], head_dim: int) -> RopeParameters:
        known = {entry.name for entry in fields(RopeParameters)}
        values = {key: value for key, value in values.items() if key in known}
        for key in {*needed, *values} - {"rope_type", "truncate", "short_factor", "long_factor"}:
            values[key] = self.number(key, values)
        partial = values.get("partial_rotary_factor", 1.0)
        if partial > 1 or (partial != 1 and "partial_rotary_factor" not in self.family.defaults):
            self.refuse(f"has partial_rotary_factor {partial}, which {self.model_type} does not take")
        for key in ("short_factor", "long_factor"):
            if key in needed:
                values[key] = self.factors(key, values.get(key), int(head_dim * partial) // 2)
        return RopeParameters(**values)

    def factors(self, key: str, value: object, length: int) -> tuple[float, ...]:
        if not isinstance(value, list) or len(value) != length:
            self.refuse(f"has {key} = {_shorten(value)}; a list of {length} numbers is needed")
        return tuple(self.number(key, {key: item}) for item in value)


def token_ids(value: object, what: str) -> tuple[int, ...]:
    """A token id, a list of them or null, as a tuple. Raises UserError, starting with ``what``, for anything else."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in values):
        raise UserError(f"{what} = {_shorten(value)}; one token id or a list of them is needed")
    return tuple(values)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
