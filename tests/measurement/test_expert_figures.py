"""What experts add to bounds, predictions and reports: numbers by hand, and laws."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest

from tpi_mpi.common.units import GIB, MIB
from tpi_mpi.kernels.formats import Format
from tpi_mpi.measurement.disk_probe import slab_file
from tpi_mpi.measurement.experts.figures import expert_figures
from tpi_mpi.measurement.experts.hits import assumed_hit_rate
from tpi_mpi.measurement.experts.load import ExpertLoad
from tpi_mpi.measurement.experts.routed import Routed
from tpi_mpi.measurement.experts.shard import ShardExperts
from tpi_mpi.measurement.format_probe import formats_to_probe
from tpi_mpi.measurement.lower_bound import RankLoad, prompt_bound, token_bound
from tpi_mpi.measurement.matrices import Matrices
from tpi_mpi.measurement.performance_model import Machine, Work, predict, shards
from tpi_mpi.measurement.rates import ProductRates, Rates
from tpi_mpi.measurement.simulator import Asked, Lane, Sweep, simulate
from tpi_mpi.measurement.tables import bench_table
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.experts.counts import Counts
from tpi_mpi.weights.slabs.directory import slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from tpi_mpi.weights.slabs.slab import Slab, planned_slab
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.splitting.ratios import choose
from weights_tools.synth import synth

LAYERS, EXPERTS, TOP_K = 3, 16, 4
KEYS = {
    "model_type": "qwen3_moe",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "moe_intermediate_size": 288,  # nine lots for two ranks: experts of two sizes
}
SMALL = ModelConfig.from_keys(KEYS)
# Large enough for budgets in MiB: 384 experts of 6 MB, and 40 MB of blocks.
LARGE = ModelConfig.from_keys(
    KEYS
    | {"vocab_size": 4096, "hidden_size": 1024, "num_attention_heads": 16, "head_dim": 64}
    | {"num_hidden_layers": 6, "num_experts": 64, "moe_intermediate_size": 1024}
)
INT4 = Format.of("int4")


def small(rank: int = 1, dtype: str = "int4") -> Slab:
    formats = StoredFormats.like(SMALL, dtype)
    return planned_slab(SMALL, formats.partition(SMALL, 2), rank, formats)


# By hand


RATES = Rates(100.0, 1000.0, {INT4: ProductRates(500.0, 4000.0)})
LOAD = ExpertLoad(Matrices({INT4: 200}, {INT4: 100}), wanted=1000, missed=150)
RANK = RankLoad("a", 800, 400, Matrices({INT4: 800}, {INT4: 400}), Matrices({}, {}), RATES, LOAD)


def test_a_token_reads_what_is_not_pinned_and_what_was_missed_and_computes_its_experts():
    bound = token_bound([RANK], blocks=4, allreduce=0.5)
    assert (bound.read, bound.compute, bound.memory) == (5.5, 2.0, 1.0)
    assert token_bound([replace(RANK, experts=None)], blocks=4, allreduce=0.5).read == 4.0


def test_a_prompt_reads_what_it_wanted_once_and_computes_the_experts_of_every_row():
    bound = prompt_bound([RANK], tokens=100, blocks=4, allreduce=0.5)
    assert (bound.read, bound.compute, bound.memory) == (18.0, 200 * 500 / 4000, 1.8)


def test_a_short_prompt_still_reads_every_expert_from_memory_once():
    assert prompt_bound([RANK], tokens=2, blocks=4, allreduce=0.5).compute == 4 * 400 / 4000 + 1000 / 500


def test_a_load_survives_json():
    for rank in (RANK, replace(RANK, experts=None)):
        assert RankLoad.from_json(json.loads(json.dumps(rank.to_json()))) == rank


COUNTS = Counts(wanted=40, missed=10, bytes_wanted=4000, bytes_missed=1100, guessed=8, guessed_right=2)


def test_counts_are_told_from_earlier_ones_and_by_sweep():
    both = Counts(**{name: 3 * count for name, count in vars(COUNTS).items()})
    assert both.since(COUNTS).since(COUNTS) == COUNTS
    figures = expert_figures(COUNTS, sweeps=2, layers=5)
    assert figures == {
        "bytes_wanted": 2000,
        "bytes_missed": 550,
        "hit_rate": 0.75,
        "per_layer": 4.0,
        "guessed": 8,
        "guess_rate": 0.25,
    }
    assert expert_figures(Counts(), sweeps=1, layers=1)["hit_rate"] is None


def test_a_token_has_to_read_what_it_missed():
    load = ExpertLoad.of(small(), Counts(bytes_wanted=7000), COUNTS, sweeps=2)
    assert (load.wanted, load.missed) == (7000, 550)


# Sizes


def test_the_experts_of_a_row_are_average_ones():
    slab = small()
    matrices = [layout for own in slab.experts.values() for kind in own.kinds for layout in own.records[kind].matrices]
    row = Matrices.of_row(slab.experts.values(), TOP_K)
    assert row.nbytes == {INT4: pytest.approx(sum(layout.nbytes for layout in matrices) * TOP_K / EXPERTS, abs=1)}
    assert row.elements == {INT4: pytest.approx(sum(layout.elements for layout in matrices) * TOP_K / EXPERTS, abs=1)}
    sizes = [record.nbytes for own in slab.experts.values() for record in own.records]
    assert min(sizes) < Routed.of(slab.experts[0], TOP_K).nbytes < max(sizes)


def test_more_rows_want_more_experts_but_never_more_than_there_are():
    routed = Routed.of(small().experts[0], TOP_K)
    wanted = [routed.wanted(rows) for rows in (1, 2, 8, 1000)]
    assert wanted == sorted(wanted)
    assert (wanted[0], wanted[-1]) == (pytest.approx(TOP_K), pytest.approx(EXPERTS))


def test_a_token_needs_of_a_routers_block_its_experts_too():
    slab = small()
    for layer, own in slab.experts.items():
        own_bytes = slab.sweep[f"layers.{layer}.router"].nbytes
        assert slab.token_bytes[f"layers.{layer}.router"] == own_bytes + TOP_K * (own.nbytes // EXPERTS)
    assert slab.token_bytes["layers.0.attention"] == slab.sweep["layers.0.attention"].nbytes


def test_the_more_experts_are_in_memory_the_more_are_hit():
    rates = [assumed_hit_rate(part / 10) for part in range(11)]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (0.0, 1.0)
    assert all(rate >= part / 10 for part, rate in enumerate(rates))


# Measuring


def test_formats_of_experts_are_measured():
    class Alone:
        def broadcast(self, value):
            return value

    formats = StoredFormats.like(SMALL, "bfloat16")
    mixed = {source: Format.of("mxfp4") for source in formats.sources if ".experts." in source}
    slab = planned_slab(SMALL, Partition.of(SMALL, 1), 0, StoredFormats(formats.sources | mixed))
    assert formats_to_probe(Alone(), slab) == [Format("bfloat16"), Format.of("mxfp4")]


def test_a_disk_is_measured_where_experts_lie(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(KEYS))
    slabs, config = tmp_path / "slabs", tmp_path / "config.json"
    synth([str(slabs), "--config", str(config), "--ranks", "2", "--dtype", "int4", "--unique-layers", "1"])
    slab = read_slab(slab_path(slabs, 1))
    with slab_file(slab) as readable:
        ranges = sorted(readable.ranges)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(ranges))
    assert all(start % 4096 == stop % 4096 == 0 for start, stop in ranges)
    experts = slab.experts[0]
    for number in range(EXPERTS):
        extent = experts.extent(number)
        assert any(start <= extent.offset and extent.offset + extent.nbytes <= stop for start, stop in ranges)


# Predicting


def sweep(asked: Asked, **changes) -> Sweep:
    settings = {"rates": [10.0], "compute": [{"a": 1.0, "b": 2.0}], "sums": 0.0, "experts": [{"a": asked}], **changes}
    return Sweep(**settings)


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(Asked(0.0, 0.0), 3.0), (Asked(0.0, 0.5), 3.5), (Asked(20.0, 0.5), 5.0), (Asked(20.0, 4.0), 7.0)],
)
def test_missing_experts_are_read_while_the_others_are_computed(asked, seconds):
    lane = Lane({"a": 40, "b": 80}, {"a", "b"}, 0)
    first, second = simulate([lane], [sweep(asked)] * 2)
    assert second - first == pytest.approx(seconds)


def test_what_is_read_for_experts_delays_the_blocks_that_stream():
    for nbytes in (0.0, 30.0):
        ends = simulate([Lane({"a": 40, "b": 80}, set(), 240)], [sweep(Asked(nbytes, 0.0))] * 5)
        assert ends[-1] - ends[-2] == pytest.approx((120 + nbytes) / 10)


FORMATS = StoredFormats.like(LARGE, "int4")
WORK = Work(prompt_tokens=8, capacity=64, chunk=16, token_sum=1e-3, prompt_sum=1e-3)
FAST = Rates(read=500e6, memory=10e9, products={INT4: ProductRates(5e9, 50e9)})


def cluster(*budgets: int) -> list[Machine]:
    return [Machine(f"host{rank}", budget, 100 * MIB, FAST) for rank, budget in enumerate(budgets)]


@pytest.fixture(scope="module")
def given():
    return shards(LARGE, FORMATS.partition(LARGE, 2), FORMATS, WORK)


def test_a_shard_has_its_experts(given):
    for shard in given:
        assert isinstance(shard.experts, ShardExperts)
        assert shard.nbytes == shard.swept + shard.experts.nbytes
        assert shard.experts.row_bytes == pytest.approx(shard.experts.nbytes * TOP_K / 64)


def test_a_token_is_the_faster_the_more_experts_are_hit(given):
    machines = cluster(300 * MIB, 300 * MIB)
    rates = (0.0, 0.25, 0.5, 0.75, 1.0)
    times = [predict(given, machines, replace(WORK, hit_rate=rate)).tpot for rate in rates]
    assert times == sorted(times, reverse=True)
    gain = given[1].experts.row_bytes * 0.25 / FAST.read  # reading is what a token waits for
    assert times[0] - times[1] == pytest.approx(gain, rel=0.05)


def test_a_token_is_the_faster_the_more_memory_there_is(given):
    found = [predict(given, cluster(budget, budget), WORK) for budget in (160 * MIB, 300 * MIB, 450 * MIB, 2 * GIB)]
    assert [own.tpot for own in found] == sorted((own.tpot for own in found), reverse=True)
    assert [own.kept[1] for own in found] == sorted(own.kept[1] for own in found)
    assert (found[-1].kept, found[-1].hit_rates) == ((384, 384), (1.0, 1.0))
    assert all(own.hit_rates[1] == pytest.approx(math.sqrt(own.kept[1] / 384)) for own in found)


def test_with_all_experts_in_memory_no_other_rate_counts(given):
    machines = cluster(2 * GIB, 2 * GIB)
    assert predict(given, machines, replace(WORK, hit_rate=0.1)) == predict(given, machines, WORK)


def test_what_slots_hold_is_told(given):
    own, plan = given[1].experts, given[1].plan(300 * MIB, 100 * MIB)
    told = own.to_json(plan.slots)
    assert (told["all"], told["size"]) == (384, own.sizes.size)
    assert told["kept"] == plan.slots - TOP_K
    assert told["assumed_hit_rate"] == pytest.approx(math.sqrt(told["kept"] / 384), abs=1e-4)
    (dense,) = shards(*dense_shape(), WORK)
    assert dense.experts.to_json(0) is None


def dense_shape():
    config = ModelConfig.from_keys({**KEYS, "mlp_only_layers": list(range(LAYERS))})
    return config, Partition.of(config, 1), StoredFormats.like(config, "int4")


@pytest.mark.parametrize("hit_rate", [None, 0.5])
def test_a_machine_with_half_the_disk_and_memory_gets_less_of_the_experts(hit_rate):
    strong, weak = cluster(450 * MIB, 280 * MIB)
    weak = replace(weak, rates=replace(FAST, read=FAST.read / 3))
    chosen = choose(LARGE, FORMATS, [strong, weak], replace(WORK, hit_rate=hit_rate))
    assert chosen.ratios[1] < 0.8 * chosen.ratios[0]
    assert chosen.expected.tpot < 0.9 * chosen.equal.tpot


def test_equal_machines_keep_equal_ratios():
    assert choose(LARGE, FORMATS, cluster(300 * MIB, 300 * MIB), WORK).ratios is None


# Telling


def test_the_table_tells_experts_only_where_there_are_some():
    assert not [line for line in bench_table(bench_report(None)) if "guessed" in line]
    figures = expert_figures(COUNTS, 2, 5)
    experts = {"kept": 8, "all": 48, "size": MIB, "prompt": {**figures, "guess_rate": None}, "token": figures}
    lines = list(bench_table(bench_report(experts)))
    (place,) = (index for index, line in enumerate(lines) if "guessed" in line)
    assert lines[place + 1].split() == "0 48 8 1.00 MiB 1.95 KiB 4.0 75% 1.95 KiB 4.0 75% 550 B 25%".split()


def bench_report(experts: dict | None) -> dict:
    """A report of tpi_mpi.bench, as far as the table looks at it."""
    rates = {"read": 1e9, "memory": 1e9, "weights": 10, "streamed": 5, "products": {"int4 by 32": {"gemv": 1e9}}}
    token = {"bytes_fetched": 5, "stall_s": 0.1, "compute_s": 0.1, "allreduce_s": 0.1}
    rank = {"rank": 0, "host": "a", "threads": 1, "rates": rates, "per_token": token}
    rank |= {"experts": experts} if experts else {}
    parts = dict.fromkeys(("total_s", "read_s", "compute_s", "allreduce_s", "memory_s"), 0.1)
    return {
        **{"model": "m", "dtype": "int4", "world_size": 1, "allreduce": "star", "prompt_tokens": 4},
        "main_format": "int4 by 32",
        "ranks": [rank | {"peak_rss_bytes": 1, "budget_bytes": None}],
        "kernels": [],
        "ttft_s": 0.2,
        "tpot_s": {"median": 0.2},
        "lower_bound": {"ttft": parts, "tpot": parts},
        "ratio": {"ttft": 2.0, "tpot": 2.0},
    }
