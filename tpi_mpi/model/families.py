"""The model families, one entry per model_type: what applies where a config.json of that type is silent.

An entry holds only what distinguishes the family. What config.json does say is read by :mod:`tpi_mpi.model.config`,
which combines the two into a ModelConfig.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tpi_mpi.common.json_object import JsonObject
from tpi_mpi.model.experts_config import (
    Experts,
    glm4_moe_experts,
    gpt_oss_experts,
    mixtral_experts,
    no_experts,
    qwen3_moe_experts,
)

Values = Mapping[str, object]
"""The values of a config.json by key, with the family's defaults filled in."""


def never(values: Values) -> bool:
    return False


def always(values: Values) -> bool:
    return True


def if_attention_bias(values: Values) -> bool:
    return bool(values["attention_bias"])


def if_qk_norm(values: Values) -> bool:
    return bool(values["use_qk_norm"])


def if_mlp_bias(values: Values) -> bool:
    return bool(values["mlp_bias"])


def no_layer_slides(values: Values) -> tuple[int | None, ...]:
    return (None,) * values["num_hidden_layers"]


def every_layer_slides(values: Values) -> tuple[int | None, ...]:
    return (values["sliding_window"],) * values["num_hidden_layers"]


def every_layer_slides_if_asked(values: Values) -> tuple[int | None, ...]:
    """Of some families, config.json names a window and also says whether it is used."""
    return every_layer_slides(values) if values["use_sliding_window"] else no_layer_slides(values)


def every_other_layer_slides(values: Values) -> tuple[int | None, ...]:
    """The sliding layers of layer_types, or else the first, the third, and so on."""
    types = values["layer_types"] or ["sliding_attention", "full_attention"] * values["num_hidden_layers"]
    return tuple(
        values["sliding_window"] if kind == "sliding_attention" else None
        for kind in types[: values["num_hidden_layers"]]
    )


def upper_layers_slide(values: Values) -> tuple[int | None, ...]:
    """The sliding layers of layer_types, or else those from max_window_layers up, if use_sliding_window is set."""
    window = values["sliding_window"] if values["use_sliding_window"] else None
    types = values["layer_types"]
    if types is None:
        types = [
            "full_attention" if layer < values["max_window_layers"] else "sliding_attention"
            for layer in range(values["num_hidden_layers"])
        ]
    return tuple(window if kind == "sliding_attention" else None for kind in types)


@dataclass(frozen=True)
class Family:
    """How the layers of one model_type differ from Llama's.

    defaults: values of the keys that config.json may leave out; a key that is neither here nor in
        ``config.COMMON_DEFAULTS`` is not understood for this family.
    qkv_bias, output_bias, mlp_bias: whether these projections carry a bias.
    sliding_windows: for each layer, the number of positions a token attends to, or None for all.
    qk_norm: whether queries and keys are RMS-normalised per head before the rotary embedding.
    sinks: whether each head's softmax has a learned logit more, which stands for no position.
    activation: that of all feed-forward blocks and experts, whatever hidden_act says; None for hidden_act's.
    experts: which of them the layers have, if any.
    fused: whether the checkpoint stores q, k, v as one qkv_proj and gate, up as one gate_up_proj.
    rope_renames: other names of a rope_type in this family's checkpoints.
    restarts_longrope: whether a sequence that outgrows the original context is recomputed with the long factors.
    """

    defaults: Values = field(default_factory=dict)
    qkv_bias: Callable[[Values], bool] = never
    output_bias: Callable[[Values], bool] = never
    mlp_bias: Callable[[Values], bool] = never
    sliding_windows: Callable[[Values], tuple[int | None, ...]] = no_layer_slides
    qk_norm: Callable[[Values], bool] = never
    sinks: bool = False
    activation: str | None = None
    experts: Callable[[JsonObject], Experts | None] = no_experts
    fused: bool = False
    rope_renames: Mapping[str, str] = field(default_factory=dict)
    restarts_longrope: bool = False


_QWEN_WINDOWS = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "layer_types": None}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        defaults={"max_position_embeddings": 2048, "eos_token_id": 2, "attention_bias": False, "mlp_bias": False},
        qkv_bias=if_attention_bias,
        output_bias=if_attention_bias,
        mlp_bias=if_mlp_bias,
    ),
    "mistral": Family(
        defaults={
            "max_position_embeddings": 131072,
            "eos_token_id": 2,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
        },
        sliding_windows=every_layer_slides,
    ),
    "qwen2": Family(
        defaults={"max_position_embeddings": 32768, **_QWEN_WINDOWS},
        qkv_bias=always,
        sliding_windows=upper_layers_slide,
    ),
    "qwen3": Family(
        defaults={"max_position_embeddings": 32768, "head_dim": 128, "attention_bias": False, **_QWEN_WINDOWS},
        qkv_bias=if_attention_bias,
        output_bias=if_attention_bias,
        sliding_windows=upper_layers_slide,
        qk_norm=always,
    ),
    "phi3": Family(
        defaults={
            "max_position_embeddings": 4096,
            "eos_token_id": 32000,
            "rms_norm_eps": 1e-5,
            "original_max_position_embeddings": 4096,
            "partial_rotary_factor": 1.0,
            "sliding_window": None,
        },
        sliding_windows=every_layer_slides,
        fused=True,
        rope_renames={"su": "longrope", "yarn": "longrope"},
        restarts_longrope=True,
    ),
    "mixtral": Family(
        defaults={
            "max_position_embeddings": 131072,
            "eos_token_id": 2,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "sliding_window": None,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        sliding_windows=every_layer_slides,
        experts=mixtral_experts,
    ),
    "qwen3_moe": Family(
        defaults={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 4,
            "attention_bias": False,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "num_experts": None,
            "num_local_experts": None,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
            "decoder_sparse_step": 1,
            "mlp_only_layers": None,
        },
        qkv_bias=if_attention_bias,
        output_bias=if_attention_bias,
        sliding_windows=every_layer_slides_if_asked,
        qk_norm=always,
        experts=qwen3_moe_experts,
    ),
    "gpt_oss": Family(
        defaults={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150000.0,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
            "initial_context_length": None,
            "attention_bias": True,
            "sliding_window": 128,
            "layer_types": None,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "experts_per_token": None,
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
        },
        qkv_bias=if_attention_bias,
        output_bias=if_attention_bias,
        sliding_windows=every_other_layer_slides,
        sinks=True,
        activation="clamped_swiglu",
        experts=gpt_oss_experts,
    ),
    "glm4_moe": Family(
        defaults={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
            "attention_bias": False,
            "use_qk_norm": False,
            "n_routed_experts": None,
            "num_local_experts": None,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 1408,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
        qkv_bias=if_attention_bias,
        qk_norm=if_qk_norm,
        experts=glm4_moe_experts,
    ),
}
