"""Laws of the partition: everything is owned, nothing twice but key-value heads, and ratios are met."""

import itertools
import json
import math

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.model.blocks import EMBEDDING, blocks_of
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.partition import Partition, bounds
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


@pytest.mark.parametrize("name", SHAPES)
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
