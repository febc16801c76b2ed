"""The tensors of each block: where the checkpoint keeps them, and how they are cut."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from tpi_mpi.model import names
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Bounds, Partition

Along = Literal["heads", "kv_heads", "columns", "shared", "expert", "whole", "root"]
"""What a tensor is cut along. Each rank gets some of its query heads, key-value heads, or columns of a feed-forward
block, a shared expert or another one; or the whole tensor is on every rank, or on rank 0 (root) alone."""


class Kind(Enum):
    """What a block computes; the value is part of the block's name.

    ROUTER: which experts a row is given to, and what the experts that all rows go through compute. EXPERT: one of the
    others, which is outside the sweep: it is used when a router asks for it.
    """

    ATTENTION = "attention"
    FEED_FORWARD = "feed_forward"
    ROUTER = "router"
    EXPERT = "expert"
    HEAD = "head"
    EMBEDDING = "embedding"


EMBEDDING = Kind.EMBEDDING.value
"""The name of the block that is read row by row, outside the sweep."""


_NOT_MULTIPLIED = (names.weight_of(names.EMBED_TOKENS), names.weight_of(names.ROUTER))


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a block.

    name: its name within the block: Hugging Face's, without the layer's prefix.
    source, rows: the checkpoint's tensor, and the range of its rows that make up this one. Fused projections and the
        slices of the output head are parts of a larger tensor; all others are the whole of theirs.
    width: length of the second axis, or None for a vector.
    along, axis, unit: what it is cut along, on which axis, and the elements of that axis per head or column.
    expert: of which layer, and its number there, if it is an expert's.
    """

    name: str
    source: str
    rows: Bounds
    width: int | None = None
    along: Along = "whole"
    axis: int = 0
    unit: int = 1
    expert: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        rows = self.rows[1] - self.rows[0]
        return (rows,) if self.width is None else (rows, self.width)

    @property
    def multiplied(self) -> bool:
        """Whether states are multiplied with it by the kernels of products.

        Of the embedding, single rows are looked up. Routers are small, and must choose alike on every rank, so they
        are kept exact, and computed exactly.
        """
        return self.width is not None and self.name not in _NOT_MULTIPLIED

    def shard(self, partition: Partition, rank: int) -> Bounds | None:
        """The range of ``axis`` that the rank holds, in elements; None if it holds none of the tensor."""
        if self.along == "root" and rank != 0:
            return None
        if self.along in ("whole", "root"):
            return 0, self.shape[self.axis]
        if self.along == "kv_heads":
            start, stop = partition.kv_heads(rank)
        else:
            cut = partition.expert(*self.expert) if self.along == "expert" else getattr(partition, self.along)
            start, stop = cut[rank]
        return start * self.unit, stop * self.unit

    def shard_shape(self, partition: Partition, rank: int) -> tuple[int, ...] | None:
        """The shape of the rank's shard of the tensor; None if it holds none of it."""
        shard = self.shard(partition, rank)
        if shard is None:
            return None
        shape = list(self.shape)
        shape[self.axis] = shard[1] - shard[0]
        return tuple(shape)


@dataclass(frozen=True)
class Block:
    """The unit that is fetched, used and released. ``layer`` is None for blocks that only rank 0 has."""

    name: str
    kind: Kind
    tensors: tuple[TensorSpec, ...]
    layer: int | None = None


def blocks_of(config: ModelConfig, partition: Partition) -> tuple[Block, ...]:
    """Every block of the model but experts in the order of use, then the embedding, which is outside the sweep."""
    layers = (block for layer in range(config.num_hidden_layers) for block in _layer(config, layer))
    return (*layers, *_head(config, partition), _embedding(config))


def experts_of(config: ModelConfig, layer: int) -> tuple[Block, ...]:
    """The experts of a layer; none if it is dense."""
    if not config.has_experts(layer):
        return ()
    return tuple(expert_block(config, layer, number) for number in range(config.experts.count))


def all_blocks(config: ModelConfig, partition: Partition) -> Iterator[Block]:
    """Every block, in the order in which slabs have them: each layer's experts follow its router."""
    for block in blocks_of(config, partition):
        yield block
        if block.kind is Kind.ROUTER:
            yield from experts_of(config, block.layer)


def shard_of(block: Block, partition: Partition, rank: int) -> Block:
    """The block with only the tensors of which the rank holds some."""
    return replace(block, tensors=tuple(spec for spec in block.tensors if spec.shard(partition, rank) is not None))


def shard_blocks(config: ModelConfig, partition: Partition, rank: int) -> tuple[Block, ...]:
    """The blocks but experts that the rank holds some of, each with only the tensors that it holds."""
    held = (shard_of(block, partition, rank) for block in blocks_of(config, partition))
    return tuple(block for block in held if block.tensors)


def sources_of(config: ModelConfig, partition: Partition) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that a checkpoint with this config must hold, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for block in all_blocks(config, partition):
        for spec in block.tensors:
            rows = max(spec.rows[1], *shapes.get(spec.source, (0,))[:1])
            shapes[spec.source] = (rows,) if spec.width is None else (rows, spec.width)
    return shapes


def _layer(config: ModelConfig, layer: int) -> Iterator[Block]:
    second = (Kind.ROUTER, _router) if config.has_experts(layer) else (Kind.FEED_FORWARD, _feed_forward)
    for kind, tensors in ((Kind.ATTENTION, _attention), second):
        yield Block(f"layers.{layer}.{kind.value}", kind, tensors(config, layer), layer)


def expert_block(config: ModelConfig, layer: int, number: int) -> Block:
    """One of the experts of a layer."""
    return Block(expert_name(layer, number), Kind.EXPERT, _expert_tensors(config, layer, number), layer)


def router_name(layer: int) -> str:
    """The name of the block that chooses among a layer's experts."""
    return f"layers.{layer}.{Kind.ROUTER.value}"


def expert_name(layer: int, number: int) -> str:
    """The name of an expert's block."""
    return f"layers.{layer}.{Kind.EXPERT.value}.{number}"


class _Layer:
    """Makes the specifications of one layer's tensors, which differ only in details."""

    def __init__(self, config: ModelConfig, layer: int):
        self.hidden_size = config.hidden_size
        self.prefix = f"model.layers.{layer}."

    def norm(self, module: str, size: int) -> TensorSpec:
        return self.vector(names.weight_of(module), size)

    def vector(self, name: str, size: int, along: Along = "whole") -> TensorSpec:
        return TensorSpec(name, self.prefix + name, (0, size), None, along)

    def rows(self, module: str, rows: int, along: Along, unit: int, source: str = "", first: int = 0) -> TensorSpec:
        """A projection of the hidden states, cut by rows: each rank computes some of its outputs."""
        source = self.prefix + names.weight_of(source or module)
        return TensorSpec(names.weight_of(module), source, (first, first + rows), self.hidden_size, along, 0, unit)

    def bias(self, module: str, rows: int, along: Along, unit: int) -> TensorSpec:
        return TensorSpec(names.bias_of(module), self.prefix + names.bias_of(module), (0, rows), None, along, 0, unit)

    def columns(self, module: str, columns: int, along: Along, unit: int) -> TensorSpec:
        """A projection back to the hidden size, cut by columns: each rank computes a partial sum."""
        source = self.prefix + names.weight_of(module)
        return TensorSpec(names.weight_of(module), source, (0, self.hidden_size), columns, along, 1, unit)


def _attention(config: ModelConfig, layer: int) -> tuple[TensorSpec, ...]:
    make = _Layer(config, layer)
    dim = config.head_dim
    queries, keys = config.num_attention_heads * dim, config.num_key_value_heads * dim
    fused = names.FUSED_QKV if config.family.fused else ""
    specs = [
        make.norm(names.ATTENTION_NORM, config.hidden_size),
        make.rows(names.Q_PROJ, queries, "heads", dim, fused),
        make.rows(names.K_PROJ, keys, "kv_heads", dim, fused, queries if fused else 0),
        make.rows(names.V_PROJ, keys, "kv_heads", dim, fused, queries + keys if fused else 0),
        make.columns(names.O_PROJ, queries, "heads", dim),
    ]
    if config.qkv_bias:
        specs.append(make.bias(names.Q_PROJ, queries, "heads", dim))
        specs.append(make.bias(names.K_PROJ, keys, "kv_heads", dim))
        specs.append(make.bias(names.V_PROJ, keys, "kv_heads", dim))
    if config.output_bias:
        specs.append(make.bias(names.O_PROJ, config.hidden_size, "root", 1))
    if config.qk_norm:
        specs.append(make.norm(names.Q_NORM, dim))
        specs.append(make.norm(names.K_NORM, dim))
    if config.family.sinks:
        specs.append(make.vector(names.SINKS, config.num_attention_heads, "heads"))
    return tuple(specs)


def _feed_forward(config: ModelConfig, layer: int) -> tuple[TensorSpec, ...]:
    make = _Layer(config, layer)
    columns = config.intermediate_size
    fused = names.FUSED_GATE_UP if config.family.fused else ""
    specs = [
        make.norm(names.FEED_FORWARD_NORM, config.hidden_size),
        make.rows(names.GATE_PROJ, columns, "columns", 1, fused),
        make.rows(names.UP_PROJ, columns, "columns", 1, fused, columns if fused else 0),
        make.columns(names.DOWN_PROJ, columns, "columns", 1),
    ]
    if config.mlp_bias:
        specs.append(make.bias(names.GATE_PROJ, columns, "columns", 1))
        specs.append(make.bias(names.UP_PROJ, columns, "columns", 1))
        specs.append(make.bias(names.DOWN_PROJ, config.hidden_size, "root", 1))
    return tuple(specs)


def _router(config: ModelConfig, layer: int) -> tuple[TensorSpec, ...]:
    """What every row needs: the norm, the router, and the shared expert."""
    make, experts = _Layer(config, layer), config.experts
    specs = [
        make.norm(names.FEED_FORWARD_NORM, config.hidden_size),
        make.rows(names.ROUTER, experts.count, "whole", 1),
    ]
    if experts.biases:
        specs.append(make.bias(names.ROUTER, experts.count, "whole", 1))
    if experts.correction:
        specs.append(make.vector(names.CORRECTION, experts.count))
    if experts.shared_width:
        specs.append(make.rows(names.SHARED_GATE_PROJ, experts.shared_width, "shared", 1))
        specs.append(make.rows(names.SHARED_UP_PROJ, experts.shared_width, "shared", 1))
        specs.append(make.columns(names.SHARED_DOWN_PROJ, experts.shared_width, "shared", 1))
    return tuple(specs)


def _expert_tensors(config: ModelConfig, layer: int, number: int) -> tuple[TensorSpec, ...]:
    """Those of an ordinary feed-forward block, without its norm, under names without the expert's number."""
    make, width = _Layer(config, layer), config.experts.width
    specs = [
        make.rows(names.GATE_PROJ, width, "expert", 1),
        make.rows(names.UP_PROJ, width, "expert", 1),
        make.columns(names.DOWN_PROJ, width, "expert", 1),
    ]
    if config.experts.biases:
        specs.append(make.bias(names.GATE_PROJ, width, "expert", 1))
        specs.append(make.bias(names.UP_PROJ, width, "expert", 1))
        specs.append(make.bias(names.DOWN_PROJ, config.hidden_size, "root", 1))
    numbered = ((spec, names.expert_of(spec.source, number)) for spec in specs)
    return tuple(replace(spec, source=source, expert=(layer, number)) for spec, source in numbered)


def _head(config: ModelConfig, partition: Partition) -> Iterator[Block]:
    """One block per slice of the output head; the first also holds the final norm."""
    tied = f"model.{names.weight_of(names.EMBED_TOKENS)}"
    source = tied if config.tie_word_embeddings else names.weight_of(names.LM_HEAD)
    name = names.weight_of(names.FINAL_NORM)
    norm = TensorSpec(name, f"model.{name}", (0, config.hidden_size), along="root")
    for index, rows in enumerate(partition.vocabulary):
        part = TensorSpec(names.weight_of(names.LM_HEAD), source, rows, config.hidden_size, "root")
        yield Block(f"{Kind.HEAD.value}.{index}", Kind.HEAD, (norm, part) if index == 0 else (part,))


def _embedding(config: ModelConfig) -> Block:
    """The embedding. A tied one is in the slab twice, because the slices of the head are not stored row by row."""
    name = names.weight_of(names.EMBED_TOKENS)
    rows = TensorSpec(name, f"model.{name}", (0, config.vocab_size), config.hidden_size, "root")
    return Block(EMBEDDING, Kind.EMBEDDING, (rows,))
