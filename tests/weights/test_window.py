"""Laws of the window: the right bytes in the right order, never more than asked for, and no way to hang."""

import errno
import json
import os
import shutil
import threading
import time

import h5py
import numpy as np
import pytest

from tpi_mpi.common.errors import DiskHung, TpiError
from tpi_mpi.common.memory import resident
from tpi_mpi.kernels.operand import Operand, Vector
from tpi_mpi.model.blocks import EMBEDDING
from tpi_mpi.weights import pages
from tpi_mpi.weights.budget import Plan, plan, plan_window
from tpi_mpi.weights.embedding import Embedding
from tpi_mpi.weights.mapping import MappedBlock, SlabFile
from tpi_mpi.weights.slabs.directory import slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from tpi_mpi.weights.slabs.slab import Slab
from tpi_mpi.weights.window import SlidingWindow
from weights_tools.synth import synth


@pytest.fixture
def slab(demo_slabs) -> Slab:
    return read_slab(slab_path(demo_slabs(2), 0))


@pytest.fixture
def spoilt(slab, tmp_path) -> Slab:
    """A copy of the slab that the test may spoil."""
    return read_slab(shutil.copy(slab.path, tmp_path / "rank0000.h5"))


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def order_of(slab: Slab) -> list[str]:
    return list(slab.sweep)


def stored(slab: Slab, name: str) -> dict[str, bytes]:
    with h5py.File(slab.path, "r") as file:
        block = file[name]
        return {
            tensor.name: b"".join(block[tensor.name + part.name][:].tobytes() for part in tensor.layout.parts)
            for tensor in slab.blocks[name].tensors
        }


def bytes_of(tensor: Operand | Vector) -> bytes:
    parts = tensor.parts if isinstance(tensor, Operand) else [tensor.stored]
    return b"".join(part.tobytes() for part in parts)


def alter(slab: Slab, name: str, at: int = 100) -> None:
    with open(slab.path, "r+b") as file:
        file.seek(slab.blocks[name].offset + at)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def plan_of(slab: Slab, pinned=(), depth: int | None = None, capacity: int | None = None) -> Plan:
    """With room for all blocks unless a capacity or depth is given."""
    capacity = capacity or sum(extent.nbytes for extent in slab.blocks.values())
    return Plan(frozenset(pinned), capacity, depth)


def largest(slab: Slab) -> int:
    return max(slab.blocks[name].nbytes for name in order_of(slab))


@pytest.mark.parametrize("bound", [{"depth": 1}, {"depth": 2}, {"room": 1.0}, {"room": 1.5}, {"room": 2.7}, {}])
@pytest.mark.parametrize("pinned", ["none", "some", "all"])
def test_every_sweep_sees_the_bytes_that_are_stored(slab, bound, pinned):
    order = order_of(slab)
    kept = {"none": [], "some": order[1::3], "all": order}[pinned]
    expected = {name: stored(slab, name) for name in order}
    capacity = int(bound.get("room", 0) * largest(slab))
    with SlidingWindow(slab, order, plan_of(slab, kept, bound.get("depth"), capacity)) as window:
        for name in order * 3:
            with window.block(name) as tensors:
                assert {key: bytes_of(tensor) for key, tensor in tensors.items()} == expected[name]


@pytest.mark.parametrize("depth", [1, 2, 3, None])
@pytest.mark.parametrize("room", [1.0, 1.5, 2.2])
@pytest.mark.parametrize("pins", [0, 4, 14])
def test_no_more_than_the_window_is_in_memory_and_nothing_is_fetched_twice(slab, monkeypatch, depth, room, pins):
    order = order_of(slab)
    pinned, capacity = frozenset(order[:pins]), int(room * largest(slab))
    arrived, fetched, most_bytes, most_blocks = {}, [], 0, 0

    def populate(block, count, cancelled):
        nonlocal most_bytes, most_blocks
        if block.extent.name not in arrived:
            fetched.append(block.extent.name)
        arrived[block.extent.name] = arrived.get(block.extent.name, 0) + count
        streamed = [count for name, count in arrived.items() if name not in pinned]
        most_bytes, most_blocks = max(most_bytes, sum(streamed)), max(most_blocks, len(streamed))

    monkeypatch.setattr("tpi_mpi.weights.resident_blocks._LEAST_FETCH", 1000)
    monkeypatch.setattr(MappedBlock, "populate", populate)
    monkeypatch.setattr(MappedBlock, "release", lambda block: arrived.pop(block.extent.name))
    sweeps = 4
    with SlidingWindow(slab, order, plan_of(slab, pinned, depth, capacity)) as window:
        for name in order * sweeps:
            with window.block(name):
                assert arrived[name] == slab.blocks[name].nbytes
        once = sum(slab.blocks[name].nbytes for name in pinned)
        unpinned = sum(slab.blocks[name].nbytes for name in order) - once
        ahead = window.bytes_fetched - once - sweeps * unpinned
        assert 0 <= ahead <= capacity
    assert fetched[: len(order)] == order
    streamed = [name for name in order if name not in pinned] * (sweeps + 1)
    assert fetched[len(order) :] == streamed[: len(fetched) - len(order)]
    assert most_bytes <= capacity
    assert most_blocks <= (depth or len(order))
    if depth is None and pins == 0:
        assert most_bytes > capacity - 1000  # what there is is used


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the fetch thread did not do what was expected of it"
        time.sleep(0.01)


def test_the_next_sweep_is_fetched_while_this_one_ends(slab):
    order = order_of(slab)
    with SlidingWindow(slab, order, plan_of(slab, depth=3)) as window:
        use(window, order[:-1])
        with window.block(order[-1]):
            wait_for(lambda: {order[0], order[1]} <= set(window._blocks._present))


@pytest.mark.parametrize("at", [0, 5000, -1])
def test_an_altered_byte_is_found_when_its_block_is_first_fetched(spoilt, at):
    name = "layers.3.feed_forward"
    alter(spoilt, name, at % spoilt.blocks[name].nbytes)
    order = order_of(spoilt)
    with SlidingWindow(spoilt, order, plan_of(spoilt, depth=2)) as window:
        use(window, order[: order.index(name)])
        with pytest.raises(TpiError, match=r"layers\.3\.feed_forward of slab .*rank0000\.h5 .* bytes were altered"):
            with window.block(name):
                pass


def use(window: SlidingWindow, names: list[str]) -> None:
    for name in names:
        with window.block(name):
            pass


def test_a_file_that_became_shorter_is_an_error_and_no_crash(spoilt):
    order = order_of(spoilt)
    os.truncate(spoilt.path, spoilt.blocks[order[-1]].offset)
    with (
        SlidingWindow(spoilt, order, plan_of(spoilt, depth=2)) as window,
        pytest.raises(TpiError, match="the file ends too early"),
    ):
        use(window, order)


def test_a_file_that_becomes_shorter_while_it_is_mapped_is_an_error_and_no_crash(spoilt):
    file = SlabFile(spoilt.path)
    block = file.map(spoilt.blocks["layers.3.feed_forward"], verify=True)
    os.truncate(spoilt.path, block.extent.offset)
    with pytest.raises(TpiError, match="the file ends too early"):
        block.populate()
    file.close()


def test_without_populating_by_the_kernel_the_window_works_too(slab, monkeypatch):
    monkeypatch.setattr(pages, "populate", lambda address, length: errno.EINVAL)
    order = order_of(slab)
    with SlidingWindow(slab, order, plan_of(slab, depth=2)) as window:
        for name in order * 2:
            with window.block(name) as tensors:
                assert {key: bytes_of(tensor) for key, tensor in tensors.items()} == stored(slab, name)


def test_a_disk_error_reaches_the_rank_that_waits(slab, monkeypatch):
    monkeypatch.setattr(pages, "populate", lambda address, length: errno.EIO)
    order = order_of(slab)
    with (
        SlidingWindow(slab, order, plan_of(slab, depth=2)) as window,
        pytest.raises(TpiError, match="Input/output error"),
    ):
        with window.block(order[0]):
            pass


@pytest.mark.parametrize("used", [0, 1, 5])
def test_leaving_early_ends_the_thread(slab, used):
    order = order_of(slab)
    with SlidingWindow(slab, order, plan_of(slab, depth=2)) as window:
        use(window, order[:used])


def test_leaving_with_an_error_ends_the_thread(slab):
    def use_and_fail():
        with SlidingWindow(slab, order_of(slab), plan_of(slab, depth=2)) as window, window.block("layers.0.attention"):
            raise KeyError("the caller's own")

    with pytest.raises(KeyError):
        use_and_fail()


def test_blocks_are_given_in_their_order_only(slab):
    with (
        SlidingWindow(slab, order_of(slab), plan_of(slab, depth=2)) as window,
        pytest.raises(AssertionError, match="is next"),
    ):
        with window.block("layers.1.attention"):
            pass


def test_embedding_rows_are_the_checkpoints(slab, demo):
    from safetensors import safe_open

    with safe_open(demo / "model.safetensors", "pt") as weights:
        matrix = weights.get_tensor("model.embed_tokens.weight")
    ids = [0, 1023, 7, 7]
    with Embedding(slab) as embedding:
        assert np.array_equal(embedding(ids), matrix[ids].float().numpy())


def test_an_altered_embedding_row_is_found_when_it_is_touched(spoilt):
    alter(spoilt, EMBEDDING, at=5 * 192 * 2)
    with Embedding(spoilt) as embedding:
        embedding([4, 6])
        with pytest.raises(TpiError, match=r"row 5 of the embedding .* bytes were altered"):
            embedding([5])


@pytest.mark.parametrize("granularity", [16384, 65536])
@pytest.mark.parametrize("depth", [1, 2, None])
def test_large_pages_are_counted_in_the_plan_and_starve_no_window(slab, monkeypatch, granularity, depth):
    """As on Apple silicon and some ARM servers, where most blocks begin inside a page."""
    monkeypatch.setattr(pages, "GRANULARITY", granularity)
    assert any(extent.offset % granularity for extent in slab.sweep.values())
    order = order_of(slab)
    expected = {name: stored(slab, name) for name in order}
    plans = [plan_window(slab.resident, depth)] if depth else []
    least = max(slab.resident.values())
    plans += [plan(slab.resident, budget, 0, depth) for budget in (2 * least, 4 * least, sum(slab.resident.values()))]
    for bounded in plans:
        with SlidingWindow(slab, order, bounded, patience=1.0) as window:
            for name in order * 2:
                with window.block(name) as tensors:
                    assert {key: bytes_of(tensor) for key, tensor in tensors.items()} == expected[name]


@pytest.mark.parametrize("granularity", [4096, 16384, 65536])
def test_a_block_takes_all_the_pages_that_it_touches(slab, monkeypatch, granularity):
    monkeypatch.setattr(pages, "GRANULARITY", granularity)
    file = SlabFile(slab.path)
    for name, extent in slab.sweep.items():
        touched = -(-extent.stop // granularity) - extent.offset // granularity
        assert slab.resident[name] == touched * granularity
        assert file.map(extent).nbytes <= slab.resident[name]
    file.close()


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Slab:
    """A slab whose embedding has 4096 rows of 16 KiB."""
    directory = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 8192, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 4096}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2}
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", **sizes, **heads}))
    synth([str(directory / "slabs"), "--config", str(directory / "config.json"), "--ranks", "1"])
    return read_slab(slab_path(directory / "slabs", 0))


def test_embedding_rows_do_not_stay_in_memory(wide):
    with Embedding(wide) as embedding:
        embedding([0])
        before = resident()
        for token_id in range(3000):
            embedding([token_id])
        assert resident() - before < 8 * 1024**2  # of 46 MiB


def test_an_embedding_row_that_the_disk_cannot_read_is_named(slab, monkeypatch):
    def bad(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    with Embedding(slab) as embedding:
        embedding([3])
        monkeypatch.setattr(os, "pread", bad)
        with pytest.raises(TpiError, match=r"row 3 of the embedding in slab .* cannot be read: Input/output error"):
            embedding([3])


def test_an_embedding_whose_file_became_shorter_is_an_error_and_no_crash(spoilt):
    with Embedding(spoilt) as embedding:
        os.truncate(spoilt.path, spoilt.blocks[EMBEDDING].offset)
        with pytest.raises(TpiError, match=r"row 7 of the embedding .* the file ends too early"):
            embedding([7])


def test_a_disk_that_hangs_at_an_embedding_row_is_an_error_in_time(slab, monkeypatch):
    woken, began = threading.Event(), time.monotonic()
    monkeypatch.setattr(os, "pread", lambda *where: woken.wait(timeout=60) and b"")
    with pytest.raises(DiskHung, match=r"no data of the embedding in slab .* has moved"):
        with Embedding(slab, patience=1.0) as embedding:
            embedding([3])
    assert time.monotonic() - began < 5
    woken.set()
    wait_for(lambda: not any(thread.name.startswith("embedding") for thread in threading.enumerate()))
