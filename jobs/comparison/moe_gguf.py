"""Writes a random mixture of experts as a GGUF file, for llama.cpp: the weights of slabs made with the same options.

    python jobs/comparison/moe_gguf.py OUT.gguf --like qwen3-30b-a3b --dtype int4 [--layers L] [--seed S]

The options are those of weights_tools.synth. Codes and scales are the very ones of the slabs: int4 by 32 is what
llama.cpp calls q4_0, and int8 by 32 its q8_0. Norms and routers become float32, as llama.cpp wants them; there is no
tokenizer. Only the qwen3_moe family.
Cost: as many bytes as the slabs; some seconds a gigabyte, and less than a gigabyte of memory.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gguf_file import FLOAT32, KINDS, Tensor, write

from tpi_mpi.cli.program import run_alone
from tpi_mpi.kernels.packing import Rows
from tpi_mpi.model import names
from tpi_mpi.model.config import ModelConfig
from weights_tools.common.progress import bytes_bar
from weights_tools.synth import random_source, synth_parser
from weights_tools.synthesis.random_source import RandomSource

# llama.cpp's names of a layer's tensors; of its experts' matrices, there is one tensor for all experts.
_LAYER = {
    "attn_norm": names.ATTENTION_NORM,
    "attn_q": names.Q_PROJ,
    "attn_k": names.K_PROJ,
    "attn_v": names.V_PROJ,
    "attn_output": names.O_PROJ,
    "attn_q_norm": names.Q_NORM,
    "attn_k_norm": names.K_NORM,
    "ffn_norm": names.FEED_FORWARD_NORM,
    "ffn_gate_inp": names.ROUTER,
}
_EXPERTS = {"ffn_gate_exps": names.GATE_PROJ, "ffn_up_exps": names.UP_PROJ, "ffn_down_exps": names.DOWN_PROJ}


def convert(source: RandomSource, out: Path) -> None:
    found = list(tensors(source))
    with bytes_bar(sum(tensor.nbytes for tensor in found), "gguf") as bar:
        for nbytes in write(out, keys(source.config), found):
            bar.update(nbytes)


def keys(config: ModelConfig) -> dict[str, object]:
    experts = config.experts
    own = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope.rope_theta),
        "expert_count": experts.count,
        "expert_used_count": experts.routing.top_k,
        "expert_feed_forward_length": experts.width,
    }
    named = {f"qwen3moe.{key}": value for key, value in own.items()}
    return {"general.architecture": "qwen3moe", **named, "tokenizer.ggml.model": "none"}


def tensors(source: RandomSource) -> Iterator[Tensor]:
    yield tensor(source, "token_embd", f"model.{names.EMBED_TOKENS}")
    for layer in range(source.config.num_hidden_layers):
        for name, module in _LAYER.items():
            yield tensor(source, f"blk.{layer}.{name}", f"model.layers.{layer}.{module}")
        for name, module in _EXPERTS.items():
            numbered = (names.expert_of(module, number) for number in range(source.config.experts.count))
            every = [f"model.layers.{layer}.{module}" for module in numbered]
            yield tensor(source, f"blk.{layer}.{name}", *every)
    yield tensor(source, "output_norm", f"model.{names.FINAL_NORM}")
    yield tensor(source, "output", names.LM_HEAD)


def tensor(source: RandomSource, name: str, *modules: str) -> Tensor:
    """The weights of these modules, one after another, as one tensor."""
    found = [names.weight_of(module) for module in modules]
    format, shape = source.formats[found[0]], source.shapes[found[0]]
    exact = len(shape) == 1 or modules[0].endswith(names.ROUTER)
    kind = FLOAT32 if exact else KINDS.get(str(format))
    if kind is None:
        raise SystemExit(f"llama.cpp has no format like {format}; use --dtype int4 or bfloat16, without --zero-points")
    shape = shape if len(found) == 1 else (len(found), *shape)
    return Tensor(names.weight_of(name), shape, kind, format, pieces(source, found))


def pieces(source: RandomSource, found: Sequence[str]) -> Iterator[Rows]:
    for name in found:
        yield from source.pieces(name, 0, source.shapes[name][0])


def check(config: ModelConfig) -> None:
    """Refuses what llama.cpp's qwen3moe does not compute."""
    plain = config.rope.rope_type == "default" and not any((config.qkv_bias, *config.sliding_windows))
    if config.model_type != "qwen3_moe" or config.tie_word_embeddings or not plain:
        raise SystemExit("only qwen3_moe without biases, windows, scaled rotations and a tied head can be written")
    if not (config.experts and all(config.experts.layers) and config.experts.routing.normalised):
        raise SystemExit("llama.cpp wants experts in every layer, and norm_topk_prob")


def main(arguments: Sequence[str] | None = None) -> None:
    options = synth_parser().parse_args(arguments)
    _, source = random_source(options)
    check(source.config)
    convert(source, options.out)


if __name__ == "__main__":
    sys.exit(run_alone(main))
