"""Makes a random checkpoint of a published shape, or its slabs directly: for measurements, not for sense.

    python -m weights_tools.synth OUT --like llama-2-70b --ranks 8 --unique-layers 4

Without --ranks OUT is a checkpoint, with it a directory of slabs. With --unique-layers the layers beyond the first
so many are HDF5 hard links to them, so that the slabs of a large model fit on a small disk while a run still maps
and fetches every layer.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import xxhash

from tpi_mpi import command
from tpi_mpi.arguments import Parser
from tpi_mpi.blocks import attention_name, feed_forward_name, sources_of
from tpi_mpi.config import ModelConfig
from tpi_mpi.errors import UserError
from tpi_mpi.files import partial_name, publish, replace_file
from tpi_mpi.partition import Partition
from tpi_mpi.slabs import ITEMSIZE
from weights_tools.checkpoint import INDEX, PIECE, SINGLE
from weights_tools.cut import cut
from weights_tools.progress import bytes_bar
from weights_tools.shapes import SHAPES
from weights_tools.split import DTYPES, add_partition_arguments, check_ranks, prepare_target

_SHARD_BYTES = 1024**3
# All weights are stretches of one random sequence. Its length is a prime, so that no row of a matrix repeats another.
_POOL = 4194301


class RandomSource:
    """Tensors of a config's shapes, the same for the same seed whatever pieces they are read in."""

    def __init__(self, name: str, config: ModelConfig, dtype: str, seed: int):
        self.name = name
        self.config = config
        self.shapes = sources_of(config, Partition.of(config, 1))
        self.dtypes = dict.fromkeys(self.shapes, dtype)
        self._seed = seed
        values = np.random.default_rng(seed).standard_normal(_POOL, dtype=np.float32) * 0.02
        self._pool = torch.from_numpy(values).to(getattr(torch, dtype))

    def fingerprint(self) -> object:
        return {"random": self._seed}

    def pieces(self, name: str, start: int, stop: int) -> Iterator[torch.Tensor]:
        shape = self.shapes[name]
        width = shape[1] if len(shape) > 1 else 1
        step = max(1, PIECE // (width * 4))
        for first in range(start, stop, step):
            rows = min(first + step, stop) - first
            values = self._values(name, first * width, rows * width)
            yield values.view(rows, width) if len(shape) > 1 else values

    def whole(self, name: str) -> torch.Tensor:
        return torch.cat(list(self.pieces(name, 0, self.shapes[name][0])))

    def _values(self, name: str, start: int, count: int) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(count, dtype=self._pool.dtype)
        start = (start + xxhash.xxh3_64_intdigest(name.encode())) % _POOL
        turns = -(-(start + count) // _POOL)
        return self._pool.repeat(turns)[start : start + count] if turns > 1 else self._pool[start : start + count]


def synth_parser() -> Parser:
    parser = Parser(prog="python -m weights_tools.synth", description="Makes a random checkpoint, or its slabs.")
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="directory to write; new or empty")
    add("--like", metavar="NAME", choices=SHAPES, help=f"a published shape: {', '.join(SHAPES)}")
    add("--config", metavar="FILE", type=Path, help="any other config.json")
    add("--layers", metavar="L", type=int, help="make so many layers instead of all")
    add("--dtype", default="bfloat16", choices=DTYPES[1:], help="of the weights (default: bfloat16)")
    add("--seed", metavar="S", type=int, default=0, help="of the random numbers (default: 0)")
    add_partition_arguments(parser, required=False)
    add("--unique-layers", metavar="K", type=int, help="with --ranks: layers beyond K link to the first K")
    add("--force", action="store_true", help="replace what is in OUT already")
    return parser


def synth(arguments: Sequence[str] | None = None) -> None:
    options = synth_parser().parse_args(arguments)
    keys = config_keys(options)
    config = ModelConfig.from_keys(keys, "the config")
    source = RandomSource(options.like or options.config.resolve().parent.name, config, options.dtype, options.seed)
    if options.ranks is None:
        if options.unique_layers is not None or options.ratios is not None:
            raise UserError("--unique-layers and --ratios are for slabs; give --ranks N too")
        prepare_target(options.out, options.force)
        write_checkpoint(source, options.out)
    else:
        check_ranks(options.ranks)
        partition = Partition.of(config, options.ranks, options.ratios)
        links = layer_links(config.num_hidden_layers, options.unique_layers)
        prepare_target(options.out, options.force)
        write_small_files(source, options.out)
        cut(source, options.out, partition, links=links)


def config_keys(options) -> dict:
    """The config.json to make. Raises UserError unless exactly one source of it is named."""
    if (options.like is None) == (options.config is None):
        raise UserError("give either --like NAME or --config FILE")
    keys = dict(SHAPES[options.like]) if options.like else dict(ModelConfig.load(options.config).keys)
    if options.layers is not None:
        if options.layers < 1:
            raise UserError(f"--layers is {options.layers}; at least 1 is needed")
        keys["num_hidden_layers"] = options.layers
        if keys.get("layer_types"):
            keys["layer_types"] = list(islice(keys["layer_types"], options.layers))
    return {**keys, "torch_dtype": options.dtype}


def layer_links(layers: int, unique: int | None) -> Mapping[str, str]:
    """The blocks of the layers from ``unique`` on, each with the block that it is a link to."""
    if unique is None:
        return {}
    if unique < 1:
        raise UserError(f"--unique-layers is {unique}; at least 1 is needed")
    names = (attention_name, feed_forward_name)
    return {name(layer): name(layer % unique) for layer in range(unique, layers) for name in names}


def write_checkpoint(source: RandomSource, target: Path) -> None:
    """In ordinary Hugging Face layout: shards of about a gigabyte, their index, config.json, a tokenizer."""
    from safetensors.torch import save_file

    write_small_files(source, target)
    shards = _shards(source)
    total = sum(_nbytes(source, name) for name in source.shapes)
    with bytes_bar(total, "synth") as bar:
        for file, tensors in shards.items():
            temporary = partial_name(target / file)
            save_file({name: source.whole(name) for name in tensors}, temporary, metadata={"format": "pt"})
            temporary.chmod(0o644)  # safetensors makes it readable by its owner only
            publish(target / file)
            bar.update(sum(_nbytes(source, name) for name in tensors))
    if len(shards) > 1:
        files = {tensor: file for file, tensors in shards.items() for tensor in tensors}
        replace_file(target / INDEX, json.dumps({"metadata": {"total_size": total}, "weight_map": files}, indent=2))


def _shards(source: RandomSource) -> dict[str, list[str]]:
    """The tensors of each file, by the file's name."""
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
    return int(np.prod(source.shapes[name])) * ITEMSIZE[source.dtypes[name]]


def write_small_files(source: RandomSource, target: Path) -> None:
    replace_file(target / "config.json", json.dumps(dict(source.config.keys), indent=2) + "\n")
    _write_tokenizer(source.config, target)


def _write_tokenizer(config: ModelConfig, target: Path) -> None:
    """A token for each byte, so that any text can be a prompt; ids beyond those decode to nothing."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    special = set(config.eos_token_id)
    free = (token_id for token_id in range(config.vocab_size) if token_id not in special)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if config.vocab_size < len(alphabet) + len(special):
        return
    vocabulary = dict(zip(alphabet, free, strict=False))
    vocabulary |= {f"<end-{token_id}>": token_id for token_id in special}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(f"<end-{token_id}>", special=True) for token_id in sorted(special)])
    tokenizer.save(str(target / "tokenizer.json"))


if __name__ == "__main__":
    sys.exit(command.run(synth))
