"""Tiny random checkpoints of every family, and what transformers says of them: the referee.

Each case exercises something that has gone wrong in real checkpoints: shapes that do not divide, biases, tied
embeddings, every way of stretching the rotary embedding, windows shorter than the sequence, every kind of router.
"""

import json
import zlib
from pathlib import Path

import numpy as np

PROMPTS = ([5, 3, 77, 90, 12], [7, 7, 64, 1, 33, 21, 99, 100, 4, 58, 23, 11, 2, 80])
NEW_TOKENS = 14

_SMALL = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_FACTORS = {"short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.5, 2.0, 4.0, 7.5]}
# 96 columns: ranks get whole lots of 32 each, or parts of one.
_QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "head_dim": 16,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
}
_GLM4_MOE = {
    "model_type": "glm4_moe",
    "head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 96,
    "first_k_dense_replace": 1,
}

CASES: dict[str, dict] = {
    "llama": {},
    "llama-mha": {"num_key_value_heads": 8},
    "llama-mqa": {"num_key_value_heads": 1, "intermediate_size": 97},
    "llama-biases-tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "llama-head-dim": {"head_dim": 24, "num_attention_heads": 8, "num_key_value_heads": 4},
    "llama-gelu": {"hidden_act": "gelu_pytorch_tanh"},
    "llama-linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}},
    "llama-dynamic": {
        "max_position_embeddings": 16,
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    },
    "llama-yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "rope_theta": 10000.0,
        }
    },
    "llama-llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
            "rope_theta": 500.0,
        }
    },
    "mistral-sliding": {"model_type": "mistral", "sliding_window": 6, "head_dim": 10, "num_key_value_heads": 4},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-sliding": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16, "num_key_value_heads": 4},
    "phi3": {"model_type": "phi3", "sliding_window": 9, "num_key_value_heads": 8},
    "phi3-longrope": {
        "model_type": "phi3",
        "original_max_position_embeddings": 16,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 10000.0, **_FACTORS},
    },
    "phi3-partial": {
        "model_type": "phi3",
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
    },
    "qwen3-moe": {**_QWEN3_MOE, "norm_topk_prob": True},
    "qwen3-moe-mixed": {
        **_QWEN3_MOE,
        "norm_topk_prob": False,
        "mlp_only_layers": [1],
        "tie_word_embeddings": True,
    },
    "mixtral": {
        "model_type": "mixtral",
        "intermediate_size": 96,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": 6,
    },
    "gpt-oss": {
        "model_type": "gpt_oss",
        "intermediate_size": 96,
        "head_dim": 16,
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "sliding_window": 6,
        "swiglu_limit": 2.0,  # random states are smaller than trained ones, and some have to reach it
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 16,
        },
    },
    "glm4-moe": {**_GLM4_MOE, "routed_scaling_factor": 1.5, "attention_bias": True},
    "glm4-moe-qk-norm": {**_GLM4_MOE, "use_qk_norm": True, "norm_topk_prob": False, "n_shared_experts": 2},
}
# Router logits of a random model are as far apart as those of a trained one, so that no choice hangs on rounding.
_ROUTER_SPREAD = 4.0
_CORRECTION = 0.3


def settings(name: str) -> tuple[str, dict]:
    """The model_type of a case, and its configuration."""
    values = {**_SMALL, **CASES[name]}
    return values.pop("model_type", "llama"), values


def build(name: str, directory: Path, dtype: str = "float32") -> None:
    """Writes the checkpoint of a case, and referee.json beside it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, values = settings(name)
    torch.manual_seed(zlib.crc32(name.encode()))
    config = AutoConfig.for_model(model_type, **values)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter, tensor in (*model.named_parameters(), *model.named_buffers()):
            _randomise(parameter, tensor)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(directory)
    (directory / "referee.json").write_text(json.dumps([continuation(model, prompt) for prompt in PROMPTS]))


def _randomise(name: str, tensor) -> None:
    """What is initialised to zero or one would hide mistakes."""
    import torch

    if name.endswith("e_score_correction_bias"):  # it must change some choices, and leave the rest to the scores
        tensor.copy_((torch.rand_like(tensor) * 2 - 1) * _CORRECTION)
    elif name.endswith(("mlp.gate.weight", "mlp.router.weight")):
        tensor.mul_(_ROUTER_SPREAD)
    elif name.endswith("bias") or (tensor.dim() == 1 and "inv_freq" not in name):
        tensor.copy_(torch.rand_like(tensor) + 0.5)


def answers_with(source: Path, weights: dict) -> list[dict]:
    """What transformers says of a checkpoint in float32 in which some weights are others, prompt by prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    _, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    return [continuation(model, prompt) for prompt in PROMPTS]


def continuation(model, prompt: list[int], count: int = NEW_TOKENS) -> dict:
    """What transformers continues a prompt with, greedily, and the log-probabilities of all tokens at each step."""
    import torch

    output = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=count,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        eos_token_id=None,
        pad_token_id=0,
    )
    logprobs = torch.cat(output.logits).float().log_softmax(-1)
    token_ids = output.sequences[0, len(prompt) :].tolist()
    return {"prompt": prompt, "token_ids": token_ids, "logprobs": logprobs.tolist()}


def referee(directory: Path) -> list[dict]:
    """What :func:`build` wrote: for each ``prompt`` the ``token_ids`` and their ``logprobs`` (tokens, vocab_size)."""
    results = json.loads((directory / "referee.json").read_text())
    return [{**result, "logprobs": np.array(result["logprobs"])} for result in results]
