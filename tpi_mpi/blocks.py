"""What a block is made of: its tensors, where the checkpoint keeps them, and how each is cut."""

from dataclasses import dataclass
from typing import Literal

from tpi_mpi.config import ModelConfig
from tpi_mpi.partition import Bounds, Partition

Along = Literal["heads", "kv_heads", "columns", "whole", "root"]
"""What a tensor is cut along: a share each of the heads, key-value heads or feed-forward columns; the whole of it
on every rank; or the whole of it on rank 0 alone."""

EMBEDDING = "embedding"
LAYERS = "layers."
"""With this begin the names of all blocks but those that rank 0 alone has."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a block.

    name: its name inside the block: Hugging Face's, without the layer's prefix.
    source, rows: the checkpoint's tensor, and the rows of it that are this one. Fused projections and the slices
        of the output head are parts of a larger tensor; all others are the whole of theirs.
    columns: length of the second axis, or None for a vector.
    along, axis, unit: what it is cut along, on which axis, and how many elements of that axis one of them takes.
    """

    name: str
    source: str
    rows: Bounds
    columns: int | None = None
    along: Along = "whole"
    axis: int = 0
    unit: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        rows = self.rows[1] - self.rows[0]
        return (rows,) if self.columns is None else (rows, self.columns)

    def share(self, partition: Partition, rank: int) -> Bounds | None:
        """The range of ``axis`` that this rank holds, in elements; None if it holds nothing of the tensor."""
        if self.along == "root" and rank != 0:
            return None
        if self.along in ("whole", "root"):
            return 0, self.shape[self.axis]
        dealt = partition.kv_heads(rank) if self.along == "kv_heads" else getattr(partition, self.along)[rank]
        return dealt[0] * self.unit, dealt[1] * self.unit

    def share_shape(self, partition: Partition, rank: int) -> tuple[int, ...] | None:
        """The shape of what this rank holds; None if it holds nothing of the tensor."""
        share = self.share(partition, rank)
        if share is None:
            return None
        shape = list(self.shape)
        shape[self.axis] = share[1] - share[0]
        return tuple(shape)


@dataclass(frozen=True)
class Block:
    """The unit that is fetched, used and released. ``layer`` is None for blocks of rank 0 alone."""

    name: str
    tensors: tuple[TensorSpec, ...]
    layer: int | None = None


def attention_name(layer: int) -> str:
    return f"{LAYERS}{layer}.attention"


def feed_forward_name(layer: int) -> str:
    return f"{LAYERS}{layer}.feed_forward"


def head_name(index: int) -> str:
    return f"head.{index}"


def blocks_of(config: ModelConfig, partition: Partition) -> tuple[Block, ...]:
    """Every block of the model in the order of use, the embedding last: it is read by rows, outside the sweep."""
    layers = []
    for layer in range(config.num_hidden_layers):
        layers.append(Block(attention_name(layer), _attention(config, layer), layer))
        layers.append(Block(feed_forward_name(layer), _feed_forward(config, layer), layer))
    return (*layers, *_head(config, partition), *_embedding(config))


def sources_of(config: ModelConfig, partition: Partition) -> dict[str, tuple[int, ...]]:
    """The tensors that a checkpoint of this config must hold, with their shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for block in blocks_of(config, partition):
        for spec in block.tensors:
            rows = max(spec.rows[1], *shapes.get(spec.source, (0,))[:1])
            shapes[spec.source] = (rows,) if spec.columns is None else (rows, spec.columns)
    return shapes


class _Layer:
    """Spells out the tensors of one layer, which differ in little."""

    def __init__(self, config: ModelConfig, layer: int):
        self.hidden_size = config.hidden_size
        self.prefix = f"model.layers.{layer}."

    def norm(self, name: str, size: int) -> TensorSpec:
        return TensorSpec(f"{name}.weight", f"{self.prefix}{name}.weight", (0, size))

    def rows(self, name: str, rows: int, along: Along, unit: int, source: str = "", first: int = 0) -> TensorSpec:
        """A projection of the hidden states: each rank computes some of its rows."""
        source = f"{self.prefix}{source or name}.weight"
        return TensorSpec(f"{name}.weight", source, (first, first + rows), self.hidden_size, along, 0, unit)

    def bias(self, name: str, rows: int, along: Along, unit: int) -> TensorSpec:
        return TensorSpec(f"{name}.bias", f"{self.prefix}{name}.bias", (0, rows), None, along, 0, unit)

    def columns(self, name: str, columns: int, along: Along, unit: int) -> TensorSpec:
        """A projection back to the hidden size: each rank computes a partial sum from some of its columns."""
        source = f"{self.prefix}{name}.weight"
        return TensorSpec(f"{name}.weight", source, (0, self.hidden_size), columns, along, 1, unit)


def _attention(config: ModelConfig, layer: int) -> tuple[TensorSpec, ...]:
    make = _Layer(config, layer)
    dim = config.head_dim
    queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
    fused = "self_attn.qkv_proj" if config.family.fused else ""
    specs = [
        make.norm("input_layernorm", config.hidden_size),
        make.rows("self_attn.q_proj", queries, "heads", dim, fused),
        make.rows("self_attn.k_proj", keys, "kv_heads", dim, fused, queries if fused else 0),
        make.rows("self_attn.v_proj", keys, "kv_heads", dim, fused, queries + keys if fused else 0),
        make.columns("self_attn.o_proj", queries, "heads", dim),
    ]
    if config.qkv_bias:
        specs.append(make.bias("self_attn.q_proj", queries, "heads", dim))
        specs.append(make.bias("self_attn.k_proj", keys, "kv_heads", dim))
        specs.append(make.bias("self_attn.v_proj", keys, "kv_heads", dim))
    if config.output_bias:
        specs.append(make.bias("self_attn.o_proj", config.hidden_size, "root", 1))
    if config.family.qk_norm:
        specs.append(make.norm("self_attn.q_norm", dim))
        specs.append(make.norm("self_attn.k_norm", dim))
    return tuple(specs)


def _feed_forward(config: ModelConfig, layer: int) -> tuple[TensorSpec, ...]:
    make = _Layer(config, layer)
    columns = config.intermediate_size
    fused = "mlp.gate_up_proj" if config.family.fused else ""
    specs = [
        make.norm("post_attention_layernorm", config.hidden_size),
        make.rows("mlp.gate_proj", columns, "columns", 1, fused),
        make.rows("mlp.up_proj", columns, "columns", 1, fused, columns if fused else 0),
        make.columns("mlp.down_proj", columns, "columns", 1),
    ]
    if config.mlp_bias:
        specs.append(make.bias("mlp.gate_proj", columns, "columns", 1))
        specs.append(make.bias("mlp.up_proj", columns, "columns", 1))
        specs.append(make.bias("mlp.down_proj", config.hidden_size, "root", 1))
    return tuple(specs)


def _head(config: ModelConfig, partition: Partition) -> tuple[Block, ...]:
    source = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    norm = TensorSpec("norm.weight", "model.norm.weight", (0, config.hidden_size), along="root")
    blocks = []
    for index, rows in enumerate(partition.vocabulary):
        part = TensorSpec("lm_head.weight", source, rows, config.hidden_size, "root")
        blocks.append(Block(head_name(index), (norm, part) if index == 0 else (part,)))
    return tuple(blocks)


def _embedding(config: ModelConfig) -> tuple[Block, ...]:
    """None where the embedding is tied: rows are then read from the slices of the head."""
    if config.tie_word_embeddings:
        return ()
    rows = (0, config.vocab_size)
    name = "embed_tokens.weight"
    return (Block(EMBEDDING, (TensorSpec(name, f"model.{name}", rows, config.hidden_size, "root"),)),)
