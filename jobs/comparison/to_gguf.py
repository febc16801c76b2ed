"""Writes a checkpoint of the llama family as a GGUF file of the same weights, for llama.cpp.

    python jobs/comparison/to_gguf.py CHECKPOINT OUT.gguf [--tokenizer]

Matrices stay in bfloat16; vectors become float32, as llama.cpp wants them. With --tokenizer the file holds a byte-level
BPE with its chat template as well; otherwise there is none. Cost: one copy of the checkpoint. Needs the packages gguf,
safetensors and torch.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors import safe_open


def convert(checkpoint: Path, out: Path, tokenizer: bool) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(out, "llama")
    describe(writer, config)
    if tokenizer:
        add_tokenizer(writer, checkpoint, config["vocab_size"])
    else:
        writer.add_tokenizer_model("none")
    sources = [(path, name) for path in sorted(checkpoint.glob("*.safetensors")) for name in names_in(path)]
    for path, name in sources:
        data = tensor(path, name, config)
        kind = gguf.GGMLQuantizationType.BF16 if data.dtype == np.uint8 else gguf.GGMLQuantizationType.F32
        target = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor_info(target, data.shape, data.dtype, data.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for path, name in sources:
        writer.write_tensor_data(tensor(path, name, config))
    writer.close()


def describe(writer: gguf.GGUFWriter, config: dict) -> None:
    heads = config["num_attention_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: gguf.GGUFWriter, checkpoint: Path, size: int) -> None:
    """Adds a byte-level BPE that splits text as GPT-2 does, perhaps with every digit a token."""
    described = json.loads((checkpoint / "tokenizer.json").read_text())
    spelled = {id: token for token, id in described["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in described["added_tokens"] if token["special"]}
    kind = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if "Digits" in json.dumps(described["pre_tokenizer"]) else "gpt-2")
    writer.add_token_list([{**spelled, **special}.get(id, f"<unused {id}>") for id in range(size)])
    writer.add_token_types([kind.CONTROL if id in special else kind.NORMAL for id in range(size)])
    writer.add_add_bos_token(False)
    gguf.SpecialVocab(checkpoint, load_merges=True, n_vocab=size).add_to_gguf(writer)


def names_in(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def tensor(path: Path, name: str, config: dict) -> np.ndarray:
    """A matrix as the bytes of its bfloat16 numbers (rows, 2 * columns), or a vector as float32."""
    with safe_open(path, "pt") as file:
        weight = file.get_tensor(name)
    if weight.ndim == 1:
        return weight.float().numpy()
    heads = config["num_attention_heads"]
    if name.endswith("q_proj.weight"):
        weight = interleave(weight, heads)
    if name.endswith("k_proj.weight"):
        weight = interleave(weight, config.get("num_key_value_heads", heads))
    return weight.bfloat16().contiguous().view(torch.uint8).numpy()


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorders a head's rows: llama.cpp rotates neighbours together, transformers row i with row i + head_dim / 2."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", action="store_true")
    options = parser.parse_args()
    convert(options.checkpoint, options.out, options.tokenizer)


if __name__ == "__main__":
    main()
