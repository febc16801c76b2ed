"""Hugging Face's names of a model's modules and their tensors, spelled out nowhere else."""

from functools import cache

ATTENTION_NORM = "input_layernorm"
Q_PROJ, K_PROJ, V_PROJ, O_PROJ = "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"
Q_NORM, K_NORM = "self_attn.q_norm", "self_attn.k_norm"
SINKS = "self_attn.sinks"
FUSED_QKV = "self_attn.qkv_proj"

FEED_FORWARD_NORM = "post_attention_layernorm"
GATE_PROJ, UP_PROJ, DOWN_PROJ = "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"
FUSED_GATE_UP = "mlp.gate_up_proj"

ROUTER, CORRECTION = "mlp.gate", "mlp.gate.e_score_correction_bias"
SHARED_GATE_PROJ, SHARED_UP_PROJ, SHARED_DOWN_PROJ = (
    f"mlp.shared_experts.{projection}" for projection in ("gate_proj", "up_proj", "down_proj")
)

_EXPERTS = "mlp.experts."

EMBED_TOKENS, FINAL_NORM, LM_HEAD = "embed_tokens", "norm", "lm_head"


@cache
def weight_of(module: str) -> str:
    return f"{module}.weight"


@cache
def bias_of(module: str) -> str:
    return f"{module}.bias"


def expert_of(projection: str, number: int) -> str:
    """The module of an expert that is called like that of an ordinary feed-forward block."""
    return projection.replace("mlp.", f"{_EXPERTS}{number}.")


def is_expert(name: str) -> bool:
    """Whether a tensor of the model is an expert's."""
    return f".{_EXPERTS}" in name
