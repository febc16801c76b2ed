"""Laws of the ratios: all weights are dealt, nobody waits longer than with equal ones, the weaker gets less."""

import json
import re
from dataclasses import replace

import pytest
from conftest import run_module

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.units import GIB, MIB
from tpi_mpi.kernels.formats import Format
from tpi_mpi.measurement.performance_model import Machine, Work, predict, shards
from tpi_mpi.measurement.rates import ProductRates, Rates
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.slabs.directory import open_slabs
from tpi_mpi.weights.slabs.slab import formats_of, planned_slab
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.inspection.description import describe
from weights_tools.split import split
from weights_tools.splitting.ratios import Ability, choose, deal
from weights_tools.synthesis.shapes import SHAPES

CONFIG = ModelConfig.from_keys(SHAPES["open-llama-3b"])
BFLOAT16 = StoredFormats.like(CONFIG, "bfloat16")
WORK = Work(prompt_tokens=32, capacity=64, chunk=32, token_sum=3e-3, prompt_sum=40e-3)
GEMV = 5e9
PRODUCTS = ProductRates(GEMV, gemm=100e9)
RATES = Rates(read=320e6, memory=10e9, products={Format("bfloat16"): PRODUCTS})
MACHINE = Machine(host="a", budget=5 * GIB // 4, taken=280 * MIB, rates=RATES)
ABILITY = Ability(room=900, window=100, read=300.0, gemv=2000.0, idle=0.1)
WEAK = replace(ABILITY, room=300, read=150.0)
FEW = replace(ABILITY, room=10, gemv=200.0)
SLOW_PRODUCTS = {"products": {Format("bfloat16"): replace(PRODUCTS, gemv=GEMV / 5)}}


def cluster(*changes: dict) -> list[Machine]:
    machines = []
    for rank, change in enumerate(changes):
        rates = replace(RATES, **{name: value for name, value in change.items() if name in vars(RATES)})
        rest = {name: value for name, value in change.items() if name not in vars(RATES)}
        machines.append(replace(MACHINE, host=f"host{rank}", rates=rates, **rest))
    return machines


def seconds(ability: Ability, nbytes: float) -> float:
    """What a shard takes, said the other way round."""
    streamed = max(0.0, nbytes - ability.room + ability.window) if nbytes > ability.room else 0.0
    return max(streamed / ability.read, ability.idle + nbytes / ability.gemv)


@pytest.mark.parametrize("nbytes", [1, 500, 3000, 20000])
@pytest.mark.parametrize("abilities", [(ABILITY,), (ABILITY, WEAK), (WEAK, FEW, ABILITY), (FEW, FEW, WEAK, ABILITY)])
def test_everything_is_dealt_and_nobody_is_slower_than_with_equal_shards(abilities, nbytes):
    dealt = deal(abilities, nbytes)
    assert sum(dealt) == pytest.approx(nbytes)
    equal = max(seconds(ability, nbytes / len(abilities)) for ability in abilities)
    assert max(map(seconds, abilities, dealt)) <= equal * (1 + 1e-6)


def test_equals_get_equal_shards_and_the_weaker_less():
    assert deal([ABILITY] * 3, 6000) == pytest.approx([2000] * 3)
    strong, weak = deal([ABILITY, WEAK], 3000)
    assert weak < strong / 1.9
    few, many = deal([FEW, ABILITY], 3000)
    assert few < many / 2


def choice(*changes: dict):
    return choose(CONFIG, BFLOAT16, cluster(*changes), WORK)


def test_a_machine_with_half_the_disk_and_half_the_memory_gets_less():
    weak = {"read": RATES.read / 2, "budget": MACHINE.budget // 2}
    chosen = choice({}, {}, weak, {})
    assert chosen.ratios[2] < min(ratio for rank, ratio in enumerate(chosen.ratios) if rank != 2) * 0.7
    assert chosen.equal.tpot > 1.3 * chosen.expected.tpot
    assert chosen.expected.pinned[2] < chosen.expected.pinned[1]


@pytest.mark.parametrize("change", [{}, {"read": 40e6}, SLOW_PRODUCTS, {"budget": 8 * GIB}, {"taken": 900 * MIB}])
def test_no_choice_is_expected_to_be_slower_than_equal_ratios(change):
    chosen = choice({}, change, {})
    assert chosen.equal is None or chosen.expected.tpot <= chosen.equal.tpot


def test_equal_machines_keep_equal_ratios():
    assert choice({}, {}, {}, {}).ratios is None
    assert choice({}, {"read": RATES.read * 1.02}, {}, {}).ratios is None


def test_a_machine_without_room_for_its_equal_shard_can_still_take_part():
    chosen = choice({}, {"budget": 335 * MIB}, {})
    assert chosen.equal is None
    assert chosen.ratios[1] < chosen.ratios[0] * 0.7


def test_one_without_any_room_is_named():
    with pytest.raises(UserError, match=r"rank 1 on host1: a memory budget of 280\.00 MiB is too small; give at least"):
        choice({}, {"budget": 280 * MIB}, {})


def test_what_fits_into_memory_takes_its_products_the_head_and_the_sums():
    machines = cluster({"budget": 8 * GIB}, {"budget": 8 * GIB})
    given = shards(CONFIG, Partition.of(CONFIG, 2), BFLOAT16, WORK)
    expected = predict(given, machines, WORK)
    assert expected.pinned == tuple(shard.nbytes for shard in given)
    head, sums = given[0].head_seconds(RATES), 52 * WORK.token_sum
    assert head == pytest.approx(2 * CONFIG.vocab_size * CONFIG.hidden_size / GEMV, rel=1e-3)
    assert expected.tpot == pytest.approx(given[1].nbytes / GEMV + head + sums, rel=1e-3)  # norms are not multiplied
    assert expected.ttft > expected.tpot


INT4, INT8 = Format.of("int4"), Format.of("int8")


def test_a_head_in_another_format_takes_what_was_measured_of_that():
    rates = replace(RATES, products={INT4: PRODUCTS, INT8: replace(PRODUCTS, gemv=3 * GEMV)})
    (shard,) = shards(CONFIG, Partition.of(CONFIG, 1), StoredFormats.like(CONFIG, "int4"), WORK)  # its head is int8
    layers = sum(shard.blocks[name] for name in shard.layers)
    head, everything = shard.head_seconds(rates), sum(shard.token_seconds(rates).values())
    assert everything - head == pytest.approx(layers / GEMV, rel=0.01)
    assert head == pytest.approx((shard.nbytes - layers) / (3 * GEMV), rel=0.01)


def test_a_machine_that_is_slow_in_one_format_gets_less_of_slabs_in_that_format_only():
    both = {"products": {INT4: PRODUCTS, INT8: PRODUCTS}, "budget": 8 * GIB}
    slow = both | {"products": {INT4: replace(PRODUCTS, gemv=GEMV / 4), INT8: PRODUCTS}}
    machines = cluster(both, slow)
    few = choose(CONFIG, StoredFormats.like(CONFIG, "int4"), machines, WORK).ratios
    assert few[1] < few[0] / 2
    assert choose(CONFIG, StoredFormats.like(CONFIG, "int8"), machines, WORK).ratios is None


@pytest.mark.parametrize("dtype", ["bfloat16", "int4"])
def test_a_planned_slab_has_the_sizes_of_the_real_one(dtype, demo, tmp_path):
    split([str(demo), str(tmp_path), "--ranks", "3", "--dtype", dtype])
    slabs = open_slabs(tmp_path)
    assert StoredFormats.like(slabs[0].config, dtype).described(slabs[0].config, slabs[0].partition) == slabs[0].formats
    for rank, slab in enumerate(slabs):
        planned = planned_slab(slab.config, slab.partition, rank, formats_of(slabs[0]))
        real, drawn = ({name: block.nbytes for name, block in one.blocks.items()} for one in (slab, planned))
        assert real == drawn
        assert (planned.dtype, planned.formats) == (slab.dtype, slab.formats)


@pytest.fixture
def report(tmp_path, demo):
    """What a check might have written of three machines, the second with a tenth of the others' GEMV rate."""
    config = ModelConfig.load(demo / "config.json")
    ranks = [
        {
            "host": f"host{rank}",
            "budget_bytes": GIB,
            "taken_bytes": 300 * MIB,
            "rates": {
                "read": 1e9,
                "memory": 1e10,
                "products": {"bfloat16": {"gemv": 1e9 if rank == 1 else 1e10, "gemm": 1e11}},
            },
        }
        for rank in range(3)
    ]
    path = tmp_path / "check.json"
    sizes = {"hidden_size": config.hidden_size, "num_hidden_layers": config.num_hidden_layers}
    work = vars(WORK) | {"token_sum": 1e-6}
    value = {"model": "demo", "world_size": 3, "dtype": "bfloat16", "allreduce": "star", "work": work, "ranks": ranks}
    path.write_text(json.dumps(value | sizes))
    return path


def test_split_takes_the_ratios_from_a_check(demo, report, tmp_path):
    finished = run_module("weights_tools.split", demo, tmp_path / "slabs", "--ranks", 3, "--ratios-from", report)
    assert finished.returncode == 0, finished.stderr
    nbytes = [rank["bytes"] for rank in describe(tmp_path / "slabs")["ranks"]]
    assert nbytes[1] < min(nbytes[0], nbytes[2]) / 2
    said = [line for line in finished.stderr.splitlines() if line.startswith("tpi_mpi: ")]
    assert said[0].startswith("tpi_mpi: ratios of 3 ranks: ")
    assert said[1].startswith("tpi_mpi: expected with --allreduce star: ")
    assert said[2].startswith("tpi_mpi: with equal ratios: ")


OF_AN_OLDER_CHECK = {
    "host": "a",
    "budget_bytes": GIB,
    "taken_bytes": 300 * MIB,
    "rates": {"read": 1e9, "memory": 1e10, "vector": 1e10, "prompt": 1e11},
}


def spoil(report, **changes) -> None:
    report.write_text(json.dumps(json.loads(report.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({}, ["--ranks", 2], "check.json is for 3 ranks, not for 2"),
        ({"hidden_size": 64}, ["--ranks", 3], "check.json is for another model (demo)"),
        ({"work": None}, ["--ranks", 3], "check.json is not a report of tpi_mpi.check"),
        ({"ranks": [{}, {}, {}]}, ["--ranks", 3], "check.json is not a report of tpi_mpi.check"),
        ({"ranks": 3 * [OF_AN_OLDER_CHECK]}, ["--ranks", 3], "check.json is not a report of tpi_mpi.check"),
        ({}, ["--ranks", 3, "--ratios", "1,1,1"], "give either --ratios or --ratios-from"),
    ],
)
def test_a_report_that_does_not_fit_is_refused(changes, arguments, words, demo, report, tmp_path):
    spoil(report, **changes)
    with pytest.raises(UserError, match=re.escape(words)):
        split([str(word) for word in (demo, tmp_path / "slabs", *arguments, "--ratios-from", report)])
    assert not (tmp_path / "slabs").exists()
