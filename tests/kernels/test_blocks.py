"""Laws: compiled blocks equal the obvious ones, leave the same cache behind, and keep rows apart."""

from dataclasses import replace

import numpy as np
import pytest
from operands import random_operand

from tpi_mpi.kernels.blocks import ACTIVATIONS, Segments, Shapes
from tpi_mpi.kernels.compiled.multiplier import Multiplier
from tpi_mpi.kernels.fallback import Fallback
from tpi_mpi.kernels.formats import Format, Plain, Tiled
from tpi_mpi.kernels.kv_cache import KVCache, pages_for
from tpi_mpi.kernels.operand import Arranged, Vector

WIDTH, CAPACITY, START = 72, 700, 20
FLOAT32 = Format("float32")
PLAIN = Shapes(WIDTH, 1e-5, 8, 2, 4, 0, 16, 8, 100, "silu")
HEADS = {
    "grouped": PLAIN,
    "one": replace(PLAIN, heads=8, kv_heads=1, heads_per_kv=8, head_dim=64, rotated=32),
    "cut": replace(PLAIN, heads=5, kv_heads=3, heads_per_kv=2, first_head=1, rotated=4),
    "odd": replace(PLAIN, heads=4, kv_heads=2, heads_per_kv=2, head_dim=24, rotated=12),
    "each": replace(PLAIN, heads=3, kv_heads=3, heads_per_kv=1, head_dim=80, rotated=10),
    "tiny": replace(PLAIN, heads=2, kv_heads=1, heads_per_kv=4, first_head=1, head_dim=6, rotated=3),
    "many": replace(PLAIN, heads=40, kv_heads=1, heads_per_kv=48, first_head=3, head_dim=6, rotated=3),
}


@pytest.fixture(scope="module")
def linear():
    with Multiplier(2, 2) as multiplier:
        yield multiplier


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def vector(size: int, dtype: str = "float32", seed: int = 0) -> Vector:
    values = (1 + 0.3 * numbers(size, seed=seed)) / 8  # so that projections are about 1, and no attention extreme
    stored = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else values.astype(dtype)
    return Vector(Plain(dtype, (size,)), stored)


def matrix(format: Format, rows: int, columns: int, seed: int):
    return random_operand(Tiled(format, rows, columns), seed)


def attention_tensors(shapes: Shapes, format=FLOAT32, options=False, dtype="float32", other=None) -> Arranged:
    queries, keys = shapes.heads * shapes.head_dim, shapes.kv_heads * shapes.head_dim
    extra = [
        vector(size, dtype, 10 + size) for size in (queries, keys, keys, shapes.width, shapes.head_dim, shapes.head_dim)
    ]
    extra.append(vector(shapes.heads, dtype, 9))
    return Arranged([
        vector(shapes.width, dtype),
        matrix(format, queries, shapes.width, 1), matrix(other or format, keys, shapes.width, 2),
        matrix(format, keys, shapes.width, 3), matrix(format, shapes.width, queries, 4),
        *(extra if options else [None] * 7),
    ])  # fmt: skip


def feed_forward_tensors(shapes: Shapes, format=FLOAT32, biases=False, dtype="float32") -> Arranged:
    extra = [vector(size, dtype, 10 + size) for size in (shapes.columns, shapes.columns, shapes.width)]
    return Arranged([
        vector(shapes.width, dtype),
        matrix(format, shapes.columns, shapes.width, 1), matrix(format, shapes.columns, shapes.width, 2),
        matrix(format, shapes.width, shapes.columns, 3),
        *(extra if biases else [None] * 3),
    ])  # fmt: skip


PAGES = np.random.default_rng(8).permutation(2 * pages_for(CAPACITY)).reshape(2, -1)  # of two sequences, in disorder


def segments(shapes: Shapes, *parts: tuple[int, int, int]) -> Segments:
    """parts: sequence, first position, count."""
    angles = numbers(CAPACITY, shapes.rotated, seed=9)
    angles = np.concatenate([angles[start : start + count] for _, start, count in parts])
    return Segments(PAGES, *zip(*parts, strict=True), np.cos(angles), np.sin(angles))


def span(shapes: Shapes, start: int, count: int) -> Segments:
    """Positions of a single sequence."""
    return segments(shapes, (0, start, count))


def caches(shapes: Shapes, dtype: str, filled: int, count: int = 2) -> list[KVCache]:
    made = [KVCache(2, shapes.kv_heads, PAGES.size, shapes.head_dim, dtype, longest=CAPACITY) for _ in range(count)]
    for sequence, pages in enumerate(PAGES):
        states = [numbers(shapes.kv_heads, filled, shapes.head_dim, seed=seed + 2 * sequence) for seed in (5, 6)]
        made[0].append(1, pages, 0, *(stored(own, dtype) for own in states))
    for cache in made[1:]:
        cache._pages[:] = made[0]._pages
    return made


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else values.astype(dtype)


def close(left: np.ndarray, right: np.ndarray, tolerance: float = 2e-5) -> None:
    assert np.abs(left - right).max() <= tolerance * np.abs(right).max()


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("count", [1, 3, 37])
@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", HEADS)
def test_attention_equals_the_obvious_one(linear, name, dtype, options, count, window):
    shapes = HEADS[name]
    tensors = attention_tensors(shapes, options=options, dtype=dtype)
    hidden, where = numbers(count, WIDTH), span(shapes, START, count)
    one, other = caches(shapes, dtype, START)
    expected = Fallback().blocks(shapes).attention(tensors, hidden, where, one, 1, window)
    result = linear.blocks(shapes).attention(tensors, hidden, where, other, 1, window)
    tolerance = {"float32": 2e-5, "bfloat16": 1e-2, "float16": 1e-3}[dtype]  # what is nearly a tie may be rounded up
    close(result, expected, tolerance)
    caches_now = [cache.read(1, PAGES[0], 0, START + count) for cache in (one, other)]
    for left, right in zip(*caches_now, strict=True):
        close(left, right, tolerance)


@pytest.mark.parametrize("start", [255, 256, 511, 640])
@pytest.mark.parametrize("count", [1, 5, 50])
@pytest.mark.parametrize("window", [None, 300])
def test_long_sequences_are_attended_to_in_parts(linear, start, count, window):
    shapes = HEADS["cut"]
    tensors, hidden, where = attention_tensors(shapes), numbers(count, WIDTH), span(shapes, start, count)
    one, other = caches(shapes, "float32", start)
    expected = Fallback().blocks(shapes).attention(tensors, hidden, where, one, 1, window)
    close(linear.blocks(shapes).attention(tensors, hidden, where, other, 1, window), expected)


@pytest.mark.parametrize("name", ["grouped", "cut", "many"])
def test_a_positions_results_depend_on_no_later_one(linear, name):
    """And so not on how many there are, nor on what the cache held of an earlier sequence."""
    shapes = HEADS[name]
    tensors, hidden = attention_tensors(shapes, Format.of("int4"), options=True), numbers(29, WIDTH)
    blocks, results = linear.blocks(shapes), []
    for count in (29, 1, 2, 7, 16, 21):
        (cache,) = caches(shapes, "bfloat16", 400, 1)
        results.append(blocks.attention(tensors, hidden[:count], span(shapes, 250, count), cache, 1, None))
    for result in results[1:]:
        assert np.array_equal(result, results[0][: len(result)])


@pytest.mark.parametrize("window", [None, 90, 600])
@pytest.mark.parametrize("name", ["grouped", "cut", "each"])
def test_a_sequences_results_are_those_that_it_has_alone(linear, name, window):
    """Whatever else is computed with it, in however many pieces: short or long, one position or many."""
    shapes = HEADS[name]
    tensors, hidden = attention_tensors(shapes, options=True, dtype="bfloat16"), numbers(60, WIDTH)
    blocks, start = linear.blocks(shapes), 500  # and so the results are put together of two spans

    def computed(*parts: tuple[int, int, int]) -> np.ndarray:
        rows = np.concatenate([hidden[first - start : first - start + count] for _, first, count in parts])
        return blocks.attention(tensors, rows, segments(shapes, *parts), cache, 1, window)

    (cache,) = caches(shapes, "bfloat16", 500, 1)
    alone = [computed((0, 500, 60)), computed((1, 500, 60))]
    (cache,) = caches(shapes, "bfloat16", 500, 1)
    together = [computed((0, 500, 31), (1, 500, 1)), computed((1, 501, 2), (0, 531, 1)), computed((1, 503, 57))]
    together.append(computed((0, 532, 28)))
    first = np.concatenate([together[0][:31], together[1][2:], together[3]])
    second = np.concatenate([together[0][31:], together[1][:2], together[2]])
    assert np.array_equal(first, alone[0])
    assert np.array_equal(second, alone[1])


def test_sequences_may_have_pages_in_common(linear):
    shapes = HEADS["grouped"]
    tensors, hidden = attention_tensors(shapes), numbers(2, WIDTH)
    one, other = caches(shapes, "bfloat16", 64)
    alone = linear.blocks(shapes).attention(tensors, hidden[:1], span(shapes, 64, 1), one, 1, None)
    angles = span(shapes, 64, 1)
    pages = np.stack([PAGES[0], [*PAGES[0][:2], *PAGES[1][2:]]])
    where = Segments(pages, [0, 1], [64, 64], [1, 1], *(np.repeat(own, 2, 0) for own in (angles.cosines, angles.sines)))
    both = linear.blocks(shapes).attention(tensors, hidden[[0, 0]], where, other, 1, None)
    assert np.array_equal(both, alone[[0, 0]])


def test_a_copied_page_is_the_same(linear):
    shapes = HEADS["grouped"]
    (cache,) = caches(shapes, "float32", 20, 1)
    cache.copy(PAGES[0][0], PAGES[1][0])
    for one, other in zip(cache.read(1, PAGES[0], 0, 20), cache.read(1, PAGES[1], 0, 20), strict=True):
        assert np.array_equal(one, other)


def test_threads_change_nothing():
    shapes, results = HEADS["grouped"], []
    tensors, hidden = attention_tensors(shapes), numbers(40, WIDTH)
    for threads in (1, 2, 5):
        (cache,) = caches(shapes, "bfloat16", 600, 1)
        with Multiplier(threads, 2) as multiplier:
            where = span(shapes, 600, 40)
            results.append(multiplier.blocks(shapes).attention(tensors, hidden, where, cache, 1, None))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_projections_may_have_several_formats(linear):
    shapes = HEADS["grouped"]
    tensors = attention_tensors(shapes, Format.of("int8"), other=Format("bfloat16"))
    hidden, where = numbers(3, WIDTH), span(shapes, START, 3)
    one, other = caches(shapes, "float32", START)
    expected = Fallback().blocks(shapes).attention(tensors, hidden, where, one, 1, None)
    close(linear.blocks(shapes).attention(tensors, hidden, where, other, 1, None), expected, 1e-3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("count", [1, 3, 37])
def test_feed_forward_equals_the_obvious_one(linear, activation, biases, dtype, count):
    shapes = replace(PLAIN, activation=activation, alpha=1.7, limit=0.8)
    tensors, hidden = feed_forward_tensors(shapes, biases=biases, dtype=dtype), numbers(count, WIDTH)
    expected = Fallback().blocks(shapes).feed_forward(tensors, hidden)
    close(linear.blocks(shapes).feed_forward(tensors, hidden), expected)


@pytest.mark.parametrize("format", [Format.of("int4"), Format.of("int8"), Format("bfloat16")], ids=str)
def test_feed_forward_keeps_rows_apart(linear, format):
    tensors, hidden = feed_forward_tensors(PLAIN, format), numbers(19, WIDTH)
    blocks = linear.blocks(PLAIN)
    together = blocks.feed_forward(tensors, hidden)
    for count in (1, 2, 7, 16):
        assert np.array_equal(blocks.feed_forward(tensors, hidden[:count]), together[:count])
    hidden[4, 3] = np.nan
    spoiled = blocks.feed_forward(tensors, hidden)
    assert np.isnan(spoiled[4]).all()
    assert np.array_equal(np.delete(spoiled, 4, 0), np.delete(together, 4, 0))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("count", [1, 9])
def test_what_an_earlier_sequence_left_behind_is_not_seen(linear, dtype, count):
    shapes = HEADS["grouped"]
    tensors, hidden, where = attention_tensors(shapes), numbers(count, WIDTH), span(shapes, START, count)
    results = []
    for cache in caches(shapes, dtype, START):
        results.append(linear.blocks(shapes).attention(tensors, hidden, where, cache, 1, None))
        nothing = stored(np.full((shapes.kv_heads, 100, shapes.head_dim), np.nan, np.float32), dtype)
        cache.append(1, PAGES[0], START, nothing, nothing)
        results.append(linear.blocks(shapes).attention(tensors, hidden, where, cache, 1, None))
    assert all(np.array_equal(results[0], result) for result in results)


def test_large_scores_do_not_overflow(linear):
    shapes = HEADS["grouped"]
    tensors, where = attention_tensors(shapes), span(shapes, START, 5)
    tensors.tensors[0].stored[:] *= 1000
    one, other = caches(shapes, "float32", START)
    hidden = numbers(5, WIDTH)
    expected = Fallback().blocks(shapes).attention(tensors, hidden, where, one, 1, None)
    close(linear.blocks(shapes).attention(tensors, hidden, where, other, 1, None), expected, 1e-3)


@pytest.mark.parametrize("sink", [-1e4, -3.0, 40.0, 1e4])
@pytest.mark.parametrize("count", [1, 12])
def test_sinks_take_their_part_of_the_attention(linear, count, sink):
    shapes = HEADS["cut"]
    tensors, hidden, where = attention_tensors(shapes), numbers(count, WIDTH), span(shapes, 600, count)
    one, other, without = caches(shapes, "float32", 600, 3)
    plain = linear.blocks(shapes).attention(tensors, hidden, where, without, 1, None)
    sinks = Vector(Plain("float32", (shapes.heads,)), np.full(shapes.heads, sink, np.float32))
    tensors = Arranged([*tensors.tensors[:-1], sinks])
    expected = Fallback().blocks(shapes).attention(tensors, hidden, where, one, 1, None)
    result = linear.blocks(shapes).attention(tensors, hidden, where, other, 1, None)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-5 * np.abs(plain).max() if sink < 100 else 1e-30)
    assert (np.abs(result).max() < np.abs(plain).max()) == (sink > -1e4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_norms_equal_the_obvious_ones(linear, dtype):
    tensors, hidden = Arranged([vector(WIDTH, dtype)]), numbers(5, WIDTH)
    hidden[2, 3] = np.nan
    expected = Fallback().blocks(PLAIN).normalise(tensors, hidden)
    result = linear.blocks(PLAIN).normalise(tensors, hidden)
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert np.isnan(result[2]).all()


def test_a_program_outlives_its_scratch_memory(linear):
    """Larger work moves the memory that smaller work was prepared for."""
    blocks, tensors, hidden = linear.blocks(PLAIN), feed_forward_tensors(PLAIN), numbers(3000, WIDTH)
    one = blocks.feed_forward(tensors, hidden[:1])
    blocks.feed_forward(tensors, hidden)
    assert np.array_equal(blocks.feed_forward(tensors, hidden[:1]), one)
