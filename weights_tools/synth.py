"""Makes a random checkpoint of a published shape, or its slabs directly: for measurements, not for sense.

    python -m weights_tools.synth OUT --like llama-2-70b --ranks 8 --unique-layers 4

Without --ranks, OUT is a checkpoint; with it, a directory of slabs. With --unique-layers K, all layers beyond the first
K are HDF5 hard links to those, so that the slabs of a large model fit on a small disk while a run still maps and
fetches every layer.

A model with experts is made to choose them as trained ones do, so that figures of a run mean something: how much is
said with --expert-skew and --expert-persistence.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tpi_mpi.cli.parser import Parser
from tpi_mpi.cli.program import run_alone
from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.formats import CODES, FLOATS, Format
from weights_tools.common.format_arguments import add_format_arguments, check_formats, stored_formats
from weights_tools.common.partition_arguments import add_partition_arguments, check_ranks
from weights_tools.synthesis.habits import DEFAULT_PERSISTENCE, DEFAULT_SKEW, MOST, habits_of
from weights_tools.synthesis.shapes import SHAPES


def main(arguments: Sequence[str] | None = None) -> int:
    return run_alone(synth, arguments)


def synth_parser() -> Parser:
    parser = Parser(prog="python -m weights_tools.synth", description="Makes a random checkpoint, or its slabs.")
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="directory to write; new or empty")
    add("--like", metavar="NAME", choices=SHAPES, help=f"a published shape: {', '.join(SHAPES)}")
    add("--config", metavar="FILE", type=Path, help="any other config.json")
    add("--layers", metavar="L", type=int, help="make only this many layers")
    add_format_arguments(parser, (*FLOATS, *CODES), "bfloat16")
    add("--seed", metavar="S", type=int, default=0, help="of the random weights (default: 0)")
    add_partition_arguments(parser, required=False)
    add("--unique-layers", metavar="K", type=int, help="with --ranks: layers beyond K link to the first K")
    skew = f"how much more popular some experts are than others, 0 to {MOST} (default: {DEFAULT_SKEW})"
    add("--expert-skew", metavar="S", type=float, help=skew)
    persistence = f"how much of a choice of experts is kept for the next token, 0 to {MOST}"
    add("--expert-persistence", metavar="P", type=float, help=f"{persistence} (default: {DEFAULT_PERSISTENCE})")
    add("--force", action="store_true", help="replace what is already in OUT")
    return parser


def synth(arguments: Sequence[str] | None = None) -> None:
    options = synth_parser().parse_args(arguments)
    _check(options)
    formats, source = random_source(options)

    from weights_tools.common.target_directory import prepare_for_checkpoint, prepare_for_slabs
    from weights_tools.splitting.cut import cut
    from weights_tools.synthesis.random_source import layer_links, write_checkpoint, write_small_files_of

    config = source.config
    if options.ranks is None:
        source.check_names()
        prepare_for_checkpoint(options.out, options.force)
        write_checkpoint(source, options.out)
    else:
        partition = formats.partition(config, options.ranks, options.ratios)
        links = layer_links(config, partition, options.unique_layers)
        if links:
            partition = replace(partition, period=options.unique_layers)  # or a layer's experts would not fit its links
        prepare_for_slabs(options.out, options.force)
        write_small_files_of(config, options.out)
        cut(source, options.out, partition, replace(formats, sources=source.formats), links)


def random_source(options: Namespace):
    """The formats and the weights that the options ask for. Raises UserError if they do not fit together."""
    if (options.like is None) == (options.config is None):
        raise UserError("give either --like NAME or --config FILE")

    from tpi_mpi.model.blocks import sources_of
    from tpi_mpi.model.config import ModelConfig
    from tpi_mpi.model.partition import Partition
    from weights_tools.synthesis.random_source import RandomSource

    config = ModelConfig.from_keys(_config_keys(options), "the config")
    habits = habits_of(config, options.expert_skew, options.expert_persistence)
    plain = dict.fromkeys(sources_of(config, Partition.of(config, 1)), _plain_format(options))
    formats = stored_formats(options, plain)
    name = options.like or options.config.resolve().parent.name
    return formats, RandomSource(name, config, formats, options.seed, habits)


def _check(options: Namespace) -> None:
    check_formats(options)
    packed = {options.dtype, options.head_dtype} & set(CODES)
    if options.ranks is not None:
        check_ranks(options.ranks)
    elif options.unique_layers is not None or options.ratios is not None:
        raise UserError("--unique-layers and --ratios are for slabs; give --ranks N too")
    elif packed:
        raise UserError(f"a checkpoint cannot be made in {packed.pop()}; give --ranks N for slabs, or another --dtype")


def _plain_format(options: Namespace) -> Format:
    """That of norms, biases and the embedding."""
    return Format(options.dtype if options.dtype in FLOATS else "bfloat16")


def _config_keys(options: Namespace) -> dict:
    """The keys of the config.json to make. Raises UserError for --layers below 1."""
    from tpi_mpi.model.config import ModelConfig

    keys = dict(SHAPES[options.like]) if options.like else dict(ModelConfig.load(options.config).keys)
    if options.layers is not None:
        if options.layers < 1:
            raise UserError(f"--layers is {options.layers}; at least 1 is needed")
        keys["num_hidden_layers"] = options.layers
        if keys.get("layer_types"):
            keys["layer_types"] = keys["layer_types"][: options.layers]
    return {**keys, "torch_dtype": _plain_format(options).dtype}


if __name__ == "__main__":
    sys.exit(main())
