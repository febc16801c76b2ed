"""Laws: compiled mixtures equal the obvious ones, and a row's result depends on nothing but the row."""

from dataclasses import replace

import numpy as np
import pytest
from operands import random_rows

from tpi_mpi.kernels.blocks import Shapes
from tpi_mpi.kernels.compiled.experts import programs
from tpi_mpi.kernels.compiled.multiplier import Multiplier
from tpi_mpi.kernels.experts.record import ALIGNMENT, ExpertRecord, Present
from tpi_mpi.kernels.experts.routing import Routing
from tpi_mpi.kernels.fallback import Fallback
from tpi_mpi.kernels.formats import Format, Plain, Tiled
from tpi_mpi.kernels.operand import Arranged, Vector
from tpi_mpi.kernels.packing import pack

WIDTH, EXPERTS = 160, 12
SHAPES = Shapes(WIDTH, 1e-5, 1, 1, 1, 0, 16, 8, 32, "silu", routing=Routing(EXPERTS, 3, "softmax"))
FORMATS = {
    "bfloat16": Format("bfloat16"),
    "float32": Format("float32"),
    "int8": Format.of("int8"),
    "int4": Format.of("int4"),
    "int4 with zero points": Format.of("int4", 32, True),
    "mxfp4": Format.of("mxfp4"),
    "float8": Format.of("float8"),
}


@pytest.fixture(scope="module")
def linear():
    with Multiplier(2, 2) as multiplier:
        yield multiplier


def record_of(format: Format, start: int, stop: int, width: int = WIDTH, biases: bool = False, up=None) -> ExpertRecord:
    """The columns from ``start`` up to ``stop`` of experts."""
    columns = stop - start
    tensors = [
        Tiled(format, columns, width),
        Tiled(up or format, columns, width),
        Tiled.cut(format, width, start, stop),
    ]
    sizes = (columns, columns, width) if biases else ()
    tensors += [Plain("float32" if size == width else "bfloat16", (size,)) for size in sizes] or [None] * 3
    offsets, place = [], 0
    for layout in tensors:
        own = []
        for part in layout.parts if layout else ():
            own.append(place)
            place += -(-part.nbytes // ALIGNMENT) * ALIGNMENT
        offsets.append(tuple(own))
    return ExpertRecord(tuple(tensors), tuple(offsets), place)


class Experts:
    """Random experts in memory."""

    def __init__(self, *records: ExpertRecord, count: int = EXPERTS):
        self._memory, self.present = [], {}
        for number in range(count):
            record = records[number % len(records)]
            self._memory.append(np.zeros(record.nbytes + ALIGNMENT, np.uint8))
            start = -self._memory[-1].ctypes.data % ALIGNMENT
            memory, rng = self._memory[-1][start : start + record.nbytes], np.random.default_rng(number)
            for layout, offsets in zip(record.tensors, record.offsets, strict=True):
                for part, offset in zip(_random_parts(layout, rng), offsets, strict=True):
                    bits = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
                    memory[offset : offset + len(bits)] = bits
            self.present[number] = Present(number, record, memory.ctypes.data)

    def some(self, numbers) -> list[Present]:
        return [self.present[number] for number in numbers]


def _random_parts(layout, rng) -> list[np.ndarray]:
    if isinstance(layout, Tiled):
        return pack(random_rows(layout, rng), layout)
    values = rng.standard_normal(layout.shape, np.float32) if layout else np.zeros(0, np.float32)
    if layout is None:
        return []
    return [(values.view(np.uint32) >> 16).astype(np.uint16) if layout.dtype == "bfloat16" else values]


def router(width: int = WIDTH, experts: int = EXPERTS) -> Arranged:
    rng = np.random.default_rng(5)
    parts = (1 + rng.random(width, np.float32)) / 16, rng.standard_normal((experts, width), np.float32) * 4
    return Arranged([*(Vector(Plain("float32", part.shape), part) for part in parts), None, None])


def hidden_states(rows: int, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, width), np.float32)


def mixed(blocks, experts: Experts, hidden: np.ndarray, partial: np.ndarray | None = None, groups=None) -> np.ndarray:
    """groups: makes groups of experts, which are added together, of the wanted ones."""
    mixture = blocks.mixture(router(hidden.shape[1]), hidden, None if partial is None else partial.copy())
    for numbers in groups(mixture.wanted) if groups else [mixture.wanted]:
        mixture.add(experts.some(numbers))
    return mixture.result()


def close(left: np.ndarray, right: np.ndarray, tolerance: float) -> None:
    assert np.abs(left - right).max() <= tolerance * np.abs(right).max()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("activation", ["silu", "clamped_swiglu"])
def test_a_mixture_equals_the_obvious_one(linear, name, biases, activation):
    shapes = replace(SHAPES, activation=activation, alpha=1.702, limit=1.5)
    experts = Experts(record_of(FORMATS[name], 40, 100, biases=biases))  # with a lead, and no whole group
    for rows in (1, 2, 30):
        hidden = hidden_states(rows)
        expected = mixed(Fallback().blocks(shapes), experts, hidden, hidden / 2)
        close(mixed(linear.blocks(shapes), experts, hidden, hidden / 2), expected, 1e-2 if name == "bfloat16" else 5e-4)


def test_experts_may_lie_in_memory_in_different_ways(linear):
    own = [record_of(FORMATS["int4"], 32, 96), record_of(FORMATS["mxfp4"], 40, 136, biases=True)]
    own.append(record_of(FORMATS["int8"], 0, 7, up=Format("bfloat16")))
    for some in (own[:1], own[:2], own):
        experts = Experts(*some)
        for rows in (1, 17):
            expected = mixed(Fallback().blocks(SHAPES), experts, hidden_states(rows))
            close(mixed(linear.blocks(SHAPES), experts, hidden_states(rows)), expected, 1e-2)


@pytest.mark.parametrize("name", ["bfloat16", "int4"])
def test_rows_are_independent(linear, name):
    experts = Experts(record_of(FORMATS[name], 0, 60, biases=True), record_of(FORMATS[name], 4, 60))
    blocks, hidden = linear.blocks(SHAPES), hidden_states(70)
    whole = mixed(blocks, experts, hidden)
    for rows in (slice(0, 1), slice(3, 5), slice(20, 57), slice(69, 70)):
        assert np.array_equal(mixed(blocks, experts, hidden[rows].copy()), whole[rows])
    hidden[4, 3] = np.nan
    spoiled = mixed(blocks, experts, hidden)
    assert np.isnan(spoiled[4]).all()
    assert np.array_equal(np.delete(spoiled, 4, 0), np.delete(whole, 4, 0))


def in_pairs(wanted) -> list[list[int]]:
    return [wanted[place : place + 2] for place in range(0, len(wanted), 2)]


@pytest.mark.parametrize("rows", [1, 23])
def test_experts_may_be_added_in_any_order_and_company(linear, rows):
    experts = Experts(record_of(FORMATS["int4"], 0, 60, biases=True), record_of(FORMATS["int4"], 4, 60))
    blocks, hidden = linear.blocks(SHAPES), hidden_states(rows)
    whole = mixed(blocks, experts, hidden, hidden)
    ways = (
        lambda wanted: [wanted[::-1]],
        lambda wanted: [[number] for number in wanted[::-1]],
        in_pairs,
        lambda wanted: [[], wanted[3:], wanted[:3]],
    )
    for groups in ways:
        assert np.array_equal(mixed(blocks, experts, hidden, hidden, groups), whole)


@pytest.mark.parametrize("places", [512, 264, 24])
def test_results_that_are_not_kept_are_the_same(linear, monkeypatch, places):
    """Nor does it matter how many are computed at a time."""
    experts = Experts(record_of(FORMATS["int4"], 0, 60, biases=True), record_of(FORMATS["int8"], 4, 60))
    hidden = hidden_states(700)
    whole = mixed(linear.blocks(SHAPES), experts, hidden, hidden)
    monkeypatch.setattr(programs, "KEPT_BYTES", 0)
    monkeypatch.setattr(programs, "PLACES", places)
    blocks = linear.blocks(SHAPES)
    assert blocks.mixture(router(), hidden).in_order
    for groups in (None, in_pairs):
        for rows in (700 if places > 256 else 7, 1, 3):
            assert np.array_equal(mixed(blocks, experts, hidden[:rows], hidden[:rows], groups), whole[:rows])


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax of chosen"])
def test_any_number_of_threads_gives_the_same(scoring):
    experts, results = Experts(record_of(FORMATS["int4"], 0, 60)), []
    shapes = replace(SHAPES, routing=Routing(EXPERTS, 4, scoring))
    for threads in (1, 2, 5):
        with Multiplier(threads, 2) as multiplier:
            results.append([mixed(multiplier.blocks(shapes), experts, hidden_states(rows)) for rows in (1, 40)])
    for others in results[1:]:
        assert all(np.array_equal(*pair) for pair in zip(results[0], others, strict=True))


def test_a_mixture_outlives_other_work(linear):
    """Whose scratch memory moves, or is written to, while a mixture is under way."""
    blocks, experts, hidden = linear.blocks(SHAPES), Experts(record_of(FORMATS["int4"], 0, 60)), hidden_states(9)
    whole, mixture = mixed(blocks, experts, hidden), blocks.mixture(router(), hidden)
    mixture.add(experts.some(mixture.wanted[:4]))
    others = linear.blocks(replace(SHAPES, routing=Routing(EXPERTS, 6, "sigmoid")))
    mixed(others, experts, hidden_states(900))
    mixture.add(experts.some(mixture.wanted[4:]))
    assert np.array_equal(mixture.result(), whole)
    assert np.array_equal(mixture.result(), whole)


def test_memory_is_all_taken_by_the_largest_mixture():
    """Even if it was of experts full of zeros, whose rows all go to the same few."""
    with Multiplier(2, 2) as multiplier:
        blocks, record = multiplier.blocks(SHAPES), record_of(FORMATS["int4"], 0, 60)
        zeros, experts = np.zeros(record.nbytes, np.uint8), Experts(record)
        for rows in (1, 600):
            mixture = blocks.mixture(router(), np.zeros((rows, WIDTH), np.float32))
            mixture.add([Present(number, record, zeros.ctypes.data) for number in mixture.wanted])
            assert not mixture.result().any()
        before = multiplier.scratch.version, blocks._mixtures._kept.version
        for rows in (1, 2, 50, 599, 600):
            mixed(blocks, experts, hidden_states(rows))
        assert (multiplier.scratch.version, blocks._mixtures._kept.version) == before
