"""Random tensors in a published shape: as a source that slabs are cut from, or as a checkpoint."""

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import torch
import xxhash

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.files import partial_name, publish, replace_file
from tpi_mpi.kernels.formats import Plain
from tpi_mpi.kernels.packing import Rows
from tpi_mpi.model import names
from tpi_mpi.model.blocks import all_blocks, sources_of
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.common.pieces import rows_at_once
from weights_tools.common.progress import bytes_bar
from weights_tools.common.target_directory import write_small_files
from weights_tools.splitting.checkpoint import INDEX, SINGLE
from weights_tools.splitting.conversion import rows_of, tensor_of
from weights_tools.synthesis.habits import Habits
from weights_tools.synthesis.planted import Planted
from weights_tools.synthesis.random_rows import RandomRows
from weights_tools.tensors.rules import RULES

_SHARD_BYTES = 1024**3
_EMBEDDING, _HEAD = f"model.{names.weight_of(names.EMBED_TOKENS)}", names.weight_of(names.LM_HEAD)


class RandomSource:
    """Tensors in a config's shapes: the same for the same seed, in whatever pieces they are read.

    habits: what the embedding and the head are to make of the experts; None for random rows there too.
    """

    def __init__(self, name: str, config: ModelConfig, formats: StoredFormats, seed: int, habits: Habits | None = None):
        self.name = name
        self.config = config
        self.ignored_keys = ()
        partition = Partition.of(config, 1)
        self.shapes = sources_of(config, partition)
        specs = [spec for block in all_blocks(config, partition) for spec in block.tensors]
        self.formats = {spec.source: formats.of(spec) for spec in specs}  # a tied embedding's is not its head's
        self._seed = seed
        self._random = {format: RandomRows(format, seed) for format in set(self.formats.values())}
        self._habits = habits
        planted = Planted(config, habits, seed) if habits else None
        self._planted = {_EMBEDDING: planted.embedding, _HEAD: planted.head} if planted else {}

    def check_names(self) -> None:
        """Raises UserError if checkpoints of the family name their tensors otherwise."""
        if self.config.model_type in RULES:
            raise UserError(f"a checkpoint of {self.config.model_type} cannot be made, only slabs; give --ranks N too")

    def fingerprint(self) -> object:
        return {"random": self._seed, **(vars(self._habits) if self._habits else {})}

    def pieces(self, name: str, start: int, stop: int) -> Iterator[Rows]:
        width = prod(self.shapes[name][1:])
        step = rows_at_once(width)
        for first in range(start, stop, step):
            yield self._rows(name, first, min(first + step, stop) - first)

    def _rows(self, name: str, first: int, count: int) -> Rows:
        if name.endswith(names.weight_of(names.FINAL_NORM)):  # and so do the names of all other norms
            return rows_of(torch.ones(count, dtype=getattr(torch, self.formats[name].dtype)))
        if name in self._planted:
            return self._random[self.formats[name]].nearest(self._planted[name](first, count))
        width = prod(self.shapes[name][1:])
        place = xxhash.xxh3_64_intdigest(name.encode()) + first * width
        rows = self._random[self.formats[name]].at(place, count, width)
        return rows if len(self.shapes[name]) > 1 else Rows(rows.values[:, 0])

    def whole(self, name: str) -> torch.Tensor:
        """The tensor, which must not be packed."""
        pieces = self.pieces(name, 0, self.shapes[name][0])
        return torch.cat([tensor_of(rows, self.formats[name]) for rows in pieces])


def layer_links(config: ModelConfig, partition: Partition, unique: int | None) -> Mapping[str, str]:
    """The blocks of the layers from ``unique`` on, each with the block of the same kind that it links to.

    Raises UserError if ``unique`` is below 1.
    """
    if unique is None:
        return {}
    if unique < 1:
        raise UserError(f"--unique-layers is {unique}; at least 1 is needed")
    layers = (block for block in all_blocks(config, partition) if block.layer is not None and block.layer >= unique)
    return {block.name: _renumbered(block.name, block.layer % unique) for block in layers}


def _renumbered(name: str, layer: int) -> str:
    """The name of the same block in another layer."""
    layers, _, *rest = name.split(".")
    return ".".join((layers, str(layer), *rest))


def write_checkpoint(source: RandomSource, target: Path) -> None:
    """Writes a checkpoint in Hugging Face layout: files of about a gigabyte, their index, config.json, a tokenizer."""
    from safetensors.torch import save_file

    write_small_files_of(source.config, target)
    _remove_weights(target)
    shards = _shards(source)
    total = sum(_nbytes(source, name) for name in source.shapes)
    with bytes_bar(total, "synth") as bar:
        for file, tensors in shards.items():
            temporary = partial_name(target / file)
            save_file({name: source.whole(name) for name in tensors}, temporary, metadata={"format": "pt"})
            temporary.chmod(0o644)  # safetensors makes it readable for its owner alone
            publish(target / file)
            bar.update(sum(_nbytes(source, name) for name in tensors))
    if len(shards) > 1:
        files = {tensor: file for file, tensors in shards.items() for tensor in tensors}
        replace_file(target / INDEX, json.dumps({"metadata": {"total_size": total}, "weight_map": files}, indent=2))


def _remove_weights(target: Path) -> None:
    """Removes what an earlier checkpoint left, or the directory would mix files of two checkpoints."""
    for path in [target / INDEX, *target.glob("model*.safetensors")]:
        path.unlink(missing_ok=True)


def _shards(source: RandomSource) -> dict[str, list[str]]:
    """The names of the tensors in each file, by the file's name."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in source.shapes:
        if shards[-1] and size + _nbytes(source, name) > _SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _nbytes(source, name)
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors": tensors for i, tensors in enumerate(shards)}


def _nbytes(source: RandomSource, name: str) -> int:
    return Plain(source.formats[name].dtype, source.shapes[name]).nbytes


def write_small_files_of(config: ModelConfig, target: Path) -> None:
    """Writes config.json and, if the vocabulary has room for one, a tokenizer."""
    files = {"config.json": (json.dumps(dict(config.keys), indent=2) + "\n").encode()}
    tokenizer = _tokenizer(config)
    if tokenizer is not None:
        files["tokenizer.json"] = tokenizer.encode()
    write_small_files(target, files)


def _tokenizer(config: ModelConfig) -> str | None:
    """A tokenizer with a token for each byte, so that any text can be a prompt; all further ids decode to nothing.

    None if the vocabulary is too small for that.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = set(config.eos_token_id)
    free = (token_id for token_id in range(config.vocab_size) if token_id not in special)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if config.vocab_size < len(alphabet) + len(special):
        return None
    vocabulary = dict(zip(alphabet, free, strict=False))
    vocabulary |= {f"<end-{token_id}>": token_id for token_id in special}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(f"<end-{token_id}>", special=True) for token_id in sorted(special)])
    return tokenizer.to_str(pretty=True)
