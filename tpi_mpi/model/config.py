"""config.json, read strictly: a key that may change the result is either understood or refused, never ignored."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.json_object import JsonObject, shorten
from tpi_mpi.model.experts_config import Experts
from tpi_mpi.model.families import FAMILIES, Family
from tpi_mpi.model.rope_config import RopeParameters, read_rope

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

# Keys that do not affect the next token's probabilities: provenance, training, classification heads, the generation
# settings that old releases of transformers kept here, and ids that the tokenizer already knows.
_INERT = frozenset(
    """
    architectures attention_dropout attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop
    encoder_no_repeat_ngram_size finetuning_task forced_bos_token_id forced_eos_token_id hidden_dropout id2label
    initializer_range label2id length_penalty max_length max_sequence_length max_window_layers min_length
    model_max_length model_type name_or_path no_repeat_ngram_size num_beam_groups num_beams num_labels
    num_nextn_predict_layers num_return_sequences output_attentions output_hidden_states output_router_logits
    output_scores pad_token_id prefix pretraining_tp problem_type repetition_penalty resid_pdrop return_dict
    return_dict_in_generate router_aux_loss_coef router_jitter_noise sep_token_id suppress_tokens task_specific_params
    temperature tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config transformers_version
    typical_p unk_token_id unsloth_fixed unsloth_version use_cache
    """.split()
)
STORAGE = ("quantization_config", "compression_config")
"""Keys that say how a checkpoint's files store the weights: whoever reads the files has to understand them. The second
is what compressed-tensors once wrote."""

# Keys that published checkpoints carry although their model_type has no such switch, each with the one value that
# changes nothing.
_INERT_VALUES = {
    "attention_bias": False,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "is_llama_config": True,
    "mlp_bias": False,
    "rope_interleaved": False,
    "use_mrope": False,
    "use_sliding_window": False,
}

# Keys of some families, whose values are true or false.
_FLAGS = frozenset({"attention_bias", "mlp_bias", "use_qk_norm", "use_sliding_window"})


ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""What each name of an activation means to kernels."""


@dataclass(frozen=True)
class ModelConfig:
    """One model's shape and switches. Fields that are keys of config.json have the same names.

    activation: what hidden_act, or else the family, means to kernels; alpha, limit: its parameters, if it has any.
    sliding_windows: per layer, the number of positions a token attends to, or None for all.
    experts: those of the model; None if all of its layers are dense.
    eos_token_id: every id that ends a sequence; empty if config.json names none.
    keys: the object in config.json as it was read, without ignored keys, so that it can be stored and read again.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    activation: str
    alpha: float
    limit: float
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    eos_token_id: tuple[int, ...]
    rope: RopeParameters
    sliding_windows: tuple[int | None, ...]
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    experts: Experts | None
    keys: Mapping[str, object]

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    def has_experts(self, layer: int) -> bool:
        """Whether a layer has experts rather than one feed-forward block."""
        return self.experts is not None and self.experts.layers[layer]

    @property
    def has_columns(self) -> bool:
        """Whether any layer has an ordinary feed-forward block."""
        return self.experts is None or not all(self.experts.layers)

    @property
    def context_length(self) -> int:
        """The most positions of a sequence, prompt included. Dynamic scaling exists to exceed the trained length."""
        factor = self.rope.factor if self.rope.rope_type == "dynamic" else 1
        return int(self.max_position_embeddings * factor)

    @classmethod
    def load(cls, path: Path, ignored: Collection[str] = ()) -> "ModelConfig":
        """Reads the config.json at this path. Raises UserError if it is missing, broken or not understood.

        ignored: keys that, according to the user, change nothing.
        """
        keys = JsonObject.load(path)
        return cls.from_keys(keys.values, keys.origin, ignored)

    @classmethod
    def from_keys(
        cls, keys: Mapping[str, object], origin: str = "config.json", ignored: Collection[str] = ()
    ) -> "ModelConfig":
        """Makes a config from an object in config.json's format. Raises UserError if it is not understood."""
        if not isinstance(keys, dict):
            raise UserError(f"{origin} is not a JSON object")
        return _Reader(keys, origin, ignored).config()


class _Reader:
    """Reads one config.json into a ModelConfig."""

    def __init__(self, values: Mapping[str, object], origin: str, ignored: Collection[str]):
        self.raw = JsonObject(values, origin)
        self.model_type = self.raw.choice("model_type", FAMILIES)
        self.family = FAMILIES[self.model_type]
        self.ignore(ignored)
        self.refuse_unknown()
        self.keys = JsonObject({**COMMON_DEFAULTS, **self.family.defaults, **self.raw.values}, origin)

    def ignore(self, keys: Collection[str]) -> None:
        for key in keys:
            if key not in self.raw.values:
                self.raw.refuse(f"has no key {key!r} to ignore")
            if self.understands(key):
                self.raw.refuse(f"has the key {key!r}, which is understood and cannot be ignored")
        rest = {key: value for key, value in self.raw.values.items() if key not in keys}
        self.raw = JsonObject(rest, self.raw.origin)

    def understands(self, key: str) -> bool:
        """Whether the key is known. Keys that begin with an underscore are transformers' own bookkeeping."""
        understood = {*_REQUIRED, *COMMON_DEFAULTS, *self.family.defaults, *_INERT, *STORAGE}
        return key in understood or key.startswith("_")

    def refuse_unknown(self) -> None:
        for key, value in self.raw.values.items():
            inert = value is None or (key in _INERT_VALUES and _INERT_VALUES[key] == value)
            if not self.understands(key) and not inert:
                self.raw.refuse(
                    f"has the key {key!r} = {shorten(value)}, which is not understood for {self.model_type}; "
                    f"if you know that it changes nothing, split with --ignore-key {key}"
                )

    def config(self) -> ModelConfig:
        keys = self.keys
        for key in _FLAGS & set(self.family.defaults):
            if keys.get(key) is not None:
                keys.flag(key)
        sizes = {key: keys.positive(key) for key in (*_REQUIRED, "max_position_embeddings")}
        heads = sizes["num_attention_heads"]
        kv_heads = heads if keys.get("num_key_value_heads") is None else keys.positive("num_key_value_heads")
        if heads % kv_heads:
            keys.refuse(f"has {heads} num_attention_heads, which {kv_heads} num_key_value_heads do not divide")
        head_dim = self.head_dim(sizes["hidden_size"], heads)
        return ModelConfig(
            model_type=self.model_type,
            **sizes,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            activation=self.family.activation or ACTIVATIONS[keys.choice("hidden_act", ACTIVATIONS)],
            alpha=keys.number("swiglu_alpha") if self.family.activation else 1.0,
            limit=keys.number("swiglu_limit") if self.family.activation else 0.0,
            rms_norm_eps=keys.number("rms_norm_eps"),
            tie_word_embeddings=keys.flag("tie_word_embeddings"),
            eos_token_id=keys.token_ids("eos_token_id"),
            rope=read_rope(keys, self.family, head_dim),
            sliding_windows=self.sliding_windows(),
            qkv_bias=self.family.qkv_bias(keys.values),
            output_bias=self.family.output_bias(keys.values),
            mlp_bias=self.family.mlp_bias(keys.values),
            qk_norm=self.family.qk_norm(keys.values),
            experts=self.family.experts(keys),
            keys=self.raw.values,
        )

    def head_dim(self, hidden_size: int, heads: int) -> int:
        if self.keys.get("head_dim") is not None:
            head_dim = self.keys.positive("head_dim")
        elif hidden_size % heads:
            self.keys.refuse(f"has hidden_size {hidden_size}, which {heads} num_attention_heads do not divide")
        else:
            head_dim = hidden_size // heads
        if head_dim % 2:
            self.keys.refuse(f"gives a head_dim of {head_dim}; the rotary embedding needs an even one")
        return head_dim

    def sliding_windows(self) -> tuple[int | None, ...]:
        layers = self.keys.positive("num_hidden_layers")
        types = self.keys.get("layer_types")
        kinds = ("full_attention", "sliding_attention")
        if types is not None and not (
            isinstance(types, list) and len(types) == layers and all(kind in kinds for kind in types)
        ):
            self.keys.refuse(
                f"has layer_types {shorten(types)}; a list of {layers} items, each full_attention or "
                "sliding_attention, is needed"
            )
        if self.keys.get("sliding_window") is not None:
            self.keys.positive("sliding_window")
        if "max_window_layers" in self.family.defaults:
            self.keys.whole("max_window_layers")
        return self.family.sliding_windows(self.keys.values)
