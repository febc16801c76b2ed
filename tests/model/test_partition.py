"""Laws of the partition: everything is owned, nothing twice but key-value heads, and ratios are met."""

import itertools
import json
import math
from dataclasses import replace

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.model.blocks import EMBEDDING, blocks_of
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition, bounds
from tpi_mpi.weights.slabs.slab import planned_slab
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.synthesis.shapes import SHAPES


def config(**changes) -> ModelConfig:
    keys = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 1,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 131,
        **changes,
    }
    return ModelConfig.from_keys(keys)


def covers(ranges, total) -> bool:
    """Whether half-open ranges follow each other from 0 to ``total`` without an empty one."""
    return (
        all(stop == start for (_, stop), (start, _) in itertools.pairwise(ranges))
        and (ranges[0][0], ranges[-1][1]) == (0, total)
        and all(start < stop for start, stop in ranges)
    )


@pytest.mark.parametrize("total", [7, 8, 97, 112])
@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("ratios", [(1,), (1, 1), (1, 100), (3, 1, 1e-9), (1, 2, 3, 1)])
def test_bounds_deal_everything_and_leave_nobody_empty(total, together, ratios):
    dealt = bounds(total, ratios, together)
    assert covers(dealt, total)
    assert all(start % together == 0 for start, _ in dealt)


def test_bounds_are_as_near_to_the_ratios_as_lots_allow():
    assert bounds(100, (1, 3)) == ((0, 25), (25, 100))
    assert bounds(100, (1, 1, 1)) == ((0, 33), (33, 67), (67, 100))
    assert bounds(10, (1, 1), together=4) == ((0, 8), (8, 10))


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
def test_every_rank_holds_the_key_value_heads_that_its_queries_read(size, kv_heads):
    partition = Partition.of(config(num_key_value_heads=kv_heads), size)
    assert covers(partition.heads, 8)
    for rank, (start, stop) in enumerate(partition.heads):
        first, last = partition.kv_heads(rank)
        needed = {head * kv_heads // 8 for head in range(start, stop)}
        assert set(range(first, last)) == needed


def weights(shape: ModelConfig, partition: Partition, rank: int) -> int:
    """Numbers in all the blocks that this rank sweeps over."""
    blocks = [block for block in blocks_of(shape, partition) if block.name != EMBEDDING]
    shapes = [spec.shard_shape(partition, rank) for block in blocks for spec in block.tensors]
    return sum(math.prod(shape) for shape in shapes if shape)


DENSE = [name for name, keys in SHAPES.items() if ModelConfig.from_keys(keys).experts is None]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("ratios", [(1, 1), (1, 1, 1), (1,) * 4, (1,) * 8, (2, 1, 1), (1, 2, 3, 1)])
def test_every_rank_gets_its_part_of_the_bytes_the_head_included(name, ratios):
    shape = ModelConfig.from_keys(SHAPES[name])
    partition = Partition.of(shape, len(ratios), ratios)
    assert covers(partition.columns, shape.intermediate_size)
    loads = [weights(shape, partition, rank) / ratio for rank, ratio in enumerate(ratios)]
    assert max(loads) < 1.03 * min(loads)


@pytest.mark.parametrize("width", [97, 112, 8640])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8])
def test_a_large_head_leaves_rank_0_few_columns(width, size):
    columns = Partition.of(config(intermediate_size=width, vocab_size=10**6), size).columns
    assert covers(columns, width)
    others = [stop - start for start, stop in columns[1:]]
    assert not others or max(others) - min(others) <= max(2, width / size / 10)


@pytest.mark.parametrize("name", SHAPES)
def test_the_head_is_cut_into_slices_no_larger_than_other_blocks(name):
    shape = ModelConfig.from_keys(SHAPES[name])
    partition = Partition.of(shape, 4)
    columns = max(stop - start for start, stop in partition.columns)
    assert covers(partition.vocabulary, shape.vocab_size)
    assert max(stop - start for start, stop in partition.vocabulary) <= 3 * columns


# Layers, and what config.json says of experts: Qwen3-30B-A3B, gpt-oss-20b, GLM-4.5-Air, Mixtral 8x7B.
PUBLISHED_EXPERTS = {
    768: {"model_type": "qwen3_moe", "num_hidden_layers": 48, "num_experts": 128, "moe_intermediate_size": 768},
    2880: {"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32, "intermediate_size": 2880},
    1408: {"model_type": "glm4_moe", "num_hidden_layers": 46, "n_routed_experts": 128, "moe_intermediate_size": 1408},
    14336: {"model_type": "mixtral", "num_hidden_layers": 32, "num_local_experts": 8, "intermediate_size": 14336},
}
MANY_RATIOS = [(1,), (1,) * 2, (1,) * 3, (1,) * 4, (1,) * 5, (1,) * 8, (2, 1, 1), (1, 2, 3, 1), (5, 3, 2.5)]


def expert_cuts(shape: ModelConfig, partition: Partition):
    """Each rank's range of the columns of every expert."""
    layers = [layer for layer in range(shape.num_hidden_layers) if shape.has_experts(layer)]
    return [partition.expert(layer, number) for layer in layers for number in range(shape.experts.count)]


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("ratios", MANY_RATIOS)
@pytest.mark.parametrize("width", PUBLISHED_EXPERTS)
def test_experts_are_cut_between_whole_groups_and_all_together_by_the_ratios(width, ratios, group):
    shape = config(**PUBLISHED_EXPERTS[width])
    cuts = expert_cuts(shape, Partition.of(shape, len(ratios), ratios, expert_group=group))
    assert all(covers(cut, width) for cut in set(cuts))
    lot = group
    while width // lot * min(ratios) < sum(ratios):  # or a rank would have none
        lot //= 2
    assert not any(start % lot for cut in cuts for start, _ in cut)
    for rank, ratio in enumerate(ratios):
        mean = sum(cut[rank][1] - cut[rank][0] for cut in cuts) / len(cuts)
        assert abs(mean - width * ratio / sum(ratios)) <= lot / 16


@pytest.mark.parametrize("ratios", MANY_RATIOS)
@pytest.mark.parametrize("width", PUBLISHED_EXPERTS)
def test_no_rank_has_more_of_all_experts_than_another(width, ratios):
    shape = config(**PUBLISHED_EXPERTS[width])
    cuts = expert_cuts(shape, Partition.of(shape, len(ratios), ratios))
    loads = [sum(cut[rank][1] - cut[rank][0] for cut in cuts) / ratio for rank, ratio in enumerate(ratios)]
    assert max(loads) < 1.02 * min(loads)


@pytest.mark.parametrize(("width", "size"), [(7, 7), (8, 8), (31, 4), (96, 8), (97, 3)])
def test_narrow_experts_leave_no_rank_without_columns(width, size):
    shape = config(**{**PUBLISHED_EXPERTS[768], "moe_intermediate_size": width})
    assert all(covers(cut, width) for cut in expert_cuts(shape, Partition.of(shape, size)))


@pytest.mark.parametrize("width", [3, 8, 64, 768, 1408])
@pytest.mark.parametrize("ratios", [(1, 100), (1, 1000, 1), (1e-9, 1, 1), (1, 1, 1e-9), (100, 1)])
def test_lopsided_ratios_leave_no_rank_without_columns(width, ratios):
    shape = config(**{**PUBLISHED_EXPERTS[768], "moe_intermediate_size": width})
    for cut in expert_cuts(shape, Partition.of(shape, len(ratios), ratios)):
        assert covers(cut, width)
        assert all(start < stop for start, stop in cut)


def test_more_ranks_than_columns_of_an_expert_are_refused():
    shape = config(**{**PUBLISHED_EXPERTS[768], "moe_intermediate_size": 7})
    with pytest.raises(UserError, match="8 ranks are more than the model's 7 columns of an expert; use --ranks 7"):
        Partition.of(shape, 8)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shared_experts_are_dealt_evenly(size):
    shared = Partition.of(config(**PUBLISHED_EXPERTS[1408]), size).shared
    assert covers(shared, 1408)
    assert max(stop - start for start, stop in shared) < 1.1 * min(stop - start for start, stop in shared)


def test_layers_that_link_to_earlier_ones_cut_their_experts_alike():
    partition = replace(Partition.of(config(**PUBLISHED_EXPERTS[2880]), 4), period=3)
    for layer, number in itertools.product(range(24), range(32)):
        assert partition.expert(layer, number) == partition.expert(layer % 3, number)


@pytest.mark.parametrize("width", PUBLISHED_EXPERTS)
def test_slabs_hold_every_column_of_an_expert_once(width):
    shape = config(**{**PUBLISHED_EXPERTS[width], "num_hidden_layers": 2})
    formats = StoredFormats.like(shape, "int4")
    partition = formats.partition(shape, 4, (1, 2, 3, 1))
    slabs = [planned_slab(shape, partition, rank, formats) for rank in range(4)]
    for layer, number in itertools.product(slabs[0].experts, range(shape.experts.count)):
        held = [slab.experts[layer].record(number).matrices for slab in slabs]
        assert sum(gate.rows for gate, _, _ in held) == sum(up.rows for _, up, _ in held) == width
        assert sum(down.columns for _, _, down in held) == width
        assert [down.lead for _, _, down in held] == [0] * 4  # no group is on two ranks


@pytest.mark.parametrize("width", PUBLISHED_EXPERTS)
def test_a_partition_of_experts_survives_being_stored(width):
    partition = replace(Partition.of(config(**PUBLISHED_EXPERTS[width]), 3, (1, 2, 1)), period=2)
    assert Partition.from_json(json.loads(json.dumps(partition.to_json()))) == partition


def test_a_partition_survives_being_stored():
    partition = Partition.of(config(), 3, (1, 2, 1))
    assert Partition.from_json(json.loads(json.dumps(partition.to_json()))) == partition
    assert set(partition.to_json()) == {"heads", "columns", "vocabulary", "heads_per_kv"}  # as slabs store it


@pytest.mark.parametrize(
    ("size", "ratios", "words"),
    [
        (9, None, "9 ranks are more than the model's 8 query heads; use --ranks 8 or fewer"),
        (2, (1, 2, 3), "3 ratios for 2 ranks"),
        (2, (1, 0), "not all positive"),
        (2, (1, float("nan")), "not all positive"),
    ],
)
def test_what_cannot_be_dealt_is_refused(size, ratios, words):
    with pytest.raises(UserError, match=words):
        Partition.of(config(), size, ratios)
