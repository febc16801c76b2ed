"""Published model shapes: the keys of each config.json that affect size and computation."""

_LLAMA = {"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-5}
_LLAMA_2 = {**_LLAMA, "vocab_size": 32000, "max_position_embeddings": 4096}
_LLAMA_31 = {
    **_LLAMA,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


def _sizes(hidden: int, intermediate: int, layers: int, heads: int) -> dict:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


SHAPES: dict[str, dict] = {
    "tinyllama-1.1b": {
        **_LLAMA_2,
        **_sizes(2048, 5632, 22, 32),
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
    },
    "open-llama-3b": {
        **_LLAMA_2,
        **_sizes(3200, 8640, 26, 32),
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
    },
    "llama-2-7b": {**_LLAMA_2, **_sizes(4096, 11008, 32, 32)},
    "llama-2-13b": {**_LLAMA_2, **_sizes(5120, 13824, 40, 40)},
    "llama-2-70b": {**_LLAMA_2, **_sizes(8192, 28672, 80, 64), "num_key_value_heads": 8},
    "llama-3.1-8b": {**_LLAMA_31, **_sizes(4096, 14336, 32, 32)},
    "llama-3.1-70b": {**_LLAMA_31, **_sizes(8192, 28672, 80, 64)},
    "yi-34b": {
        **_LLAMA,
        **_sizes(7168, 20480, 60, 56),
        "num_key_value_heads": 8,
        "vocab_size": 64000,
        "max_position_embeddings": 4096,
        "rope_theta": 5000000.0,
    },
    "mistral-7b": {
        **_LLAMA,
        **_sizes(4096, 14336, 32, 32),
        "model_type": "mistral",
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
    },
    "qwen2.5-7b": {
        **_sizes(3584, 18944, 28, 28),
        "model_type": "qwen2",
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 131072,
        "max_window_layers": 28,
        "sliding_window": 131072,
        "use_sliding_window": False,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
    },
    "qwen3-8b": {
        **_sizes(4096, 12288, 36, 32),
        "model_type": "qwen3",
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    },
    "phi-3-mini": {
        **_sizes(3072, 8192, 32, 32),
        "model_type": "phi3",
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "sliding_window": 2047,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 32000,
    },
}
