"""Tells what the performance model expects of machines that nobody has, as JSON.

    python jobs/comparison/predict.py --like gpt-oss-120b --experts-dtype mxfp4 --ranks 8 --memory 3GiB \\
        --disk 1GB --links 1,300 0.1,1000

All machines are alike. Shards are equal, sums take what the links take with the best exchange, and nothing else costs
time. Of a mixture's experts, the part of a token's that is in memory is what --hit-rate says, or an assumption;
``bench`` measures it. Reads of single experts are taken to be as fast as long ones. With --drafted, a sweep checks so
many tokens more; how many tokens come of it must be told. Cost: some seconds; no machine is asked.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from tpi_mpi.comm.allreduce.tuned import EXCHANGES, expected_seconds
from tpi_mpi.comm.links import Link
from tpi_mpi.common.units import MIB, parse_size
from tpi_mpi.engine.sweep.chunking import Chunking
from tpi_mpi.kernels.formats import STORED_AS, Format
from tpi_mpi.measurement.performance_model import Machine, Shard, Work, predict, shards
from tpi_mpi.measurement.rates import ProductRates, Rates
from tpi_mpi.model.blocks import Kind, all_blocks
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.synthesis.shapes import SHAPES

# What the program takes without weights, keys and values, or activations.
_TAKEN = 150 * MIB


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--like", choices=SHAPES, help="a published shape")
    model.add_argument("--config", type=Path, help="any other config.json")
    add("--dtype", choices=STORED_AS, default="bfloat16", help="of the layers' matrices (default: bfloat16)")
    add("--experts-dtype", choices=STORED_AS, help="of experts (default: that of --dtype)")
    add("--ranks", type=int, required=True, help="machines, one rank on each")
    add("--memory", type=parse_size, required=True, help="budget of each, as in 3GiB")
    add("--disk", type=parse_size, required=True, help="what each disk delivers in a second, as in 1GB")
    add("--gemv", type=parse_size, default="10GB", help="bytes of weights in a second, one row (default: 10GB)")
    add("--gemm", type=float, default=100.0, help="billions of operations in a second, many rows (default: 100)")
    add("--links", type=link, nargs="+", required=True, metavar="MS,MBIT/S", help="latency and rate of links to try")
    add("--prompt-tokens", type=int, default=32, help="length of the prompt (default: 32)")
    add("--new-tokens", type=int, default=128, help="that there is room for (default: 128)")
    add("--hit-rate", type=float, help="part of a token's experts that are in memory (default: an assumption)")
    add("--drafted", type=int, default=0, help="tokens that are drafted for each sweep (default: 0)")
    add("--tokens-a-sweep", type=float, default=1.0, help="that come of it, as measured elsewhere (default: 1)")
    add("--draft-seconds", type=float, default=0.0, help="what drafting for a sweep takes (default: 0)")
    return parser.parse_args(words)


def link(text: str) -> Link:
    milliseconds, megabits = map(float, text.split(","))
    return Link(milliseconds / 1e3, megabits * 1e6 / 8)


def stored(config: ModelConfig, dtype: str, experts: str) -> StoredFormats:
    """Experts in one format and all other matrices of layers in another; heads in int8 where these are packed."""
    usual = StoredFormats.like(config, dtype)
    if experts == dtype:
        return usual
    own = {
        spec.source: Format.of(experts)
        for block in all_blocks(config, Partition.of(config, 1))
        if block.kind is Kind.EXPERT
        for spec in block.tensors
        if spec.multiplied
    }
    others = {source: usual.layers or usual.sources[source] for source in usual.sources}
    return replace(usual, sources=others | own, layers=None)


def work(config: ModelConfig, options: argparse.Namespace, own: Link) -> Work:
    """What is asked of machines with such links between them."""
    capacity = options.prompt_tokens + options.new_tokens
    chunking = Chunking.of(config.hidden_size, capacity, overlap=True)

    def seconds(rows: int) -> float:
        nbytes = 4 * rows * config.hidden_size
        return min(expected_seconds(name, options.ranks, own, nbytes) for name in EXCHANGES)

    return Work(
        prompt_tokens=options.prompt_tokens,
        capacity=capacity,
        chunk=chunking.most,
        token_sum=seconds(1 + options.drafted),
        rows=1 + options.drafted,
        prompt_sum=sum(map(seconds, chunking.sizes(options.prompt_tokens))),
        overlap=chunking.overlaps(options.prompt_tokens),
        hit_rate=options.hit_rate,
    )


def machines(options: argparse.Namespace) -> list[Machine]:
    products = {Format.of(options.experts_dtype or options.dtype): ProductRates(options.gemv, options.gemm * 1e9)}
    rates = Rates(options.disk, options.gemv, products)
    return [Machine(f"machine{rank}", options.memory, _TAKEN, rates) for rank in range(options.ranks)]


def expected(given: list[Shard], options: argparse.Namespace, asked: Work, own: Link) -> dict:
    """What to expect with one kind of link. Figures of experts are those of the rank that has the fewest in memory."""
    found = predict(given, machines(options), asked)
    worst = min(range(options.ranks), key=found.hit_rates.__getitem__)
    experts = given[worst].experts
    tpot = (found.tpot + options.draft_seconds) / options.tokens_a_sweep
    return {
        "link_ms": own.latency * 1e3,
        "link_mbit_s": own.bandwidth * 8 / 1e6,
        "ttft_s": round(found.ttft, 3),
        "sweep_s": round(found.tpot, 4),
        "tpot_s": round(tpot, 4),
        "tokens_per_s": round(1 / tpot, 3),
        "sums_s": round(asked.token_sum * (len(given[0].layers) - 1), 4),
        "shard_bytes": [shard.nbytes for shard in given],
        "pinned_bytes": found.pinned,
        "kept_experts": found.kept,
        "all_experts": experts.sizes.most if experts.sizes else 0,
        "hit_rate": round(found.hit_rates[worst], 4),
        "missed_bytes": round(experts.row_bytes * (1 - found.hit_rates[worst])),
    }


def main(words: list[str] | None = None) -> None:
    options = arguments(words)
    config = ModelConfig.from_keys(SHAPES[options.like]) if options.like else ModelConfig.load(options.config)
    formats = stored(config, options.dtype, options.experts_dtype or options.dtype)
    if options.drafted and config.experts:
        raise SystemExit("--drafted does not know which experts more rows want; leave it out for a mixture of experts")
    partition, given = formats.partition(config, options.ranks), None
    for own in options.links:
        asked = work(config, options, own)
        given = given or shards(config, partition, formats, asked)  # the same with all links
        print(json.dumps(expected(given, options, asked, own)), flush=True)


if __name__ == "__main__":
    main()
