"""Laws of the experts in memory: the right bytes, never more slots than there are, and no way to hang."""

import ctypes
import errno
import fcntl
import json
import os
import shutil
import threading
import time
from collections import Counter
from contextlib import suppress
from random import Random

import pytest

from tpi_mpi.common.errors import DiskHung, TpiError
from tpi_mpi.common.trace import Trace
from tpi_mpi.weights.experts import reader
from tpi_mpi.weights.experts.cache import ExpertCache
from tpi_mpi.weights.experts.residency import Residency
from tpi_mpi.weights.experts.shares import shares
from tpi_mpi.weights.experts.sizes import ExpertSizes
from tpi_mpi.weights.experts.trust import Trust
from tpi_mpi.weights.slabs.directory import slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from tpi_mpi.weights.slabs.slab import Slab
from weights_tools.synth import synth

LAYERS, EXPERTS, TOP_K = 3, 16, 4
CONFIG = {
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


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("experts")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    slabs = directory / "slabs"
    synth([str(slabs), "--config", str(directory / "config.json"), "--ranks", "2", "--dtype", "int4"])
    return slab_path(slabs, 1)


@pytest.fixture
def slab(path) -> Slab:
    return read_slab(path)


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def stored(slab: Slab, layer: int, number: int) -> bytes:
    extent = slab.experts[layer].extent(number)
    with open(slab.path, "rb") as file:
        file.seek(extent.offset)
        return file.read(extent.nbytes)


def bytes_of(present) -> bytes:
    return ctypes.string_at(present.address, present.record.nbytes)


def opened(slab: Slab, slots: int, residency: Residency) -> ExpertCache:
    return ExpertCache(slab, residency, shares(slots, list(slab.experts), ExpertSizes.of(slab)), Trace())


def fetched(cache: ExpertCache, slab: Slab, layer: int, wanted, in_order=False) -> list[int]:
    """The experts in the order in which they came, each compared with the file."""
    numbers = []
    for some in cache.fetch(layer, sorted(wanted), in_order, wanted):
        for present in some:
            assert bytes_of(present) == stored(slab, layer, present.number)
            numbers.append(present.number)
    return numbers


def test_there_are_experts_of_two_sizes(slab):
    assert {len(own.records) for own in slab.experts.values()} == {2}


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("slots", [2, 3, 5, 9, 17, 30, LAYERS * EXPERTS])
def test_whatever_is_wanted_comes_once_in_any_number_of_slots(slab, slots, in_order):
    random = Random(slots)
    with Residency(slab, slots) as residency:
        cache = opened(slab, slots, residency)
        for _ in range(20):
            for layer in range(LAYERS):
                wanted = random.sample(range(EXPERTS), random.choice([1, TOP_K, EXPERTS]))
                if random.random() < 0.5:
                    cache.guess(layer, random.sample(range(EXPERTS), 3))
                numbers = fetched(cache, slab, layer, wanted, in_order)
                assert Counter(numbers) == Counter(wanted)
                assert not in_order or numbers == sorted(numbers)
        assert 0 < cache.counts.missed <= cache.counts.wanted


def test_what_was_used_last_stays(slab):
    slots = LAYERS * 6 + TOP_K
    with Residency(slab, slots) as residency:
        cache = opened(slab, slots, residency)
        assert cache.shares == dict.fromkeys(range(LAYERS), 6)
        for wanted in ([0, 1, 2, 3], [4, 5, 2, 3], [6, 7, 4, 5]):  # of the first two, none is used again
            for layer in range(LAYERS):
                fetched(cache, slab, layer, wanted)
        missed = cache.counts.missed
        for layer in range(LAYERS):
            fetched(cache, slab, layer, [2, 3, 4, 5])
        assert cache.counts.missed == missed
        for layer in range(LAYERS):
            fetched(cache, slab, layer, [0, 1])
        assert cache.counts.missed == missed + 2 * LAYERS


def test_everything_is_read_once_where_there_is_room_for_all(slab):
    slots = LAYERS * EXPERTS
    with Residency(slab, slots) as residency:
        cache = opened(slab, slots, residency)
        for _ in range(3):
            for layer in range(LAYERS):
                fetched(cache, slab, layer, range(EXPERTS))
        assert cache.counts.missed == slots
        assert cache.bytes_fetched == sum(own.nbytes for own in slab.experts.values())


def test_those_that_are_there_come_before_the_disk_delivers(slab, monkeypatch):
    read = reader.Reader._read
    with Residency(slab, 20) as residency:
        cache = opened(slab, 20, residency)
        fetched(cache, slab, 0, [3, 4])
        go = threading.Event()
        monkeypatch.setattr(reader.Reader, "_read", lambda self, one: go.wait() and read(self, one))
        deliveries = cache.fetch(0, [2, 3, 4], False, [2, 3, 4])
        assert [present.number for present in next(deliveries)] == [3, 4]
        go.set()
        assert [present.number for present in next(deliveries)] == [2]
        assert list(deliveries) == []


def test_a_right_guess_is_read_once(slab):
    with Residency(slab, 20) as residency:
        cache = opened(slab, 20, residency)
        cache.guess(1, [5, 6])
        while not residency.idle:
            time.sleep(0.01)
        fetched(cache, slab, 1, [6, 7])
        assert (cache.counts.guessed, cache.counts.guessed_right, cache.counts.missed) == (2, 1, 2)
        assert cache.bytes_fetched == cache.counts.bytes_missed + cache.counts.bytes_wasted


def test_altered_bytes_are_named_when_the_expert_is_first_read(slab, tmp_path):
    spoilt = read_slab(shutil.copy(slab.path, tmp_path / "rank0001.h5"))
    extent = spoilt.experts[1].extent(7)
    with open(spoilt.path, "r+b") as file:
        file.seek(extent.offset + extent.nbytes // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with Residency(spoilt, 10) as residency:
        cache = opened(spoilt, 10, residency)
        fetched(cache, spoilt, 1, [6, 8])
        with pytest.raises(TpiError, match=r"block layers\.1\.expert\.7 of slab .* bytes were altered"):
            fetched(cache, spoilt, 1, [7])


def test_a_file_that_ends_too_early_is_named(slab, tmp_path):
    spoilt = read_slab(shutil.copy(slab.path, tmp_path / "rank0001.h5"))
    os.truncate(spoilt.path, int(spoilt.experts[2].offsets[0]))
    with Residency(spoilt, 10) as residency:
        cache = opened(spoilt, 10, residency)
        with pytest.raises(TpiError, match=r"block layers\.2\.expert\.0 .* the file ends too early"):
            fetched(cache, spoilt, 2, [0])


def test_a_disk_that_hangs_is_noticed(slab, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(reader.Reader, "_read", lambda self, one: go.wait())
    began = time.monotonic()
    with pytest.raises(DiskHung, match=r"layers\.0\.expert\.3"), Residency(slab, 10, patience=0.3) as residency:
        fetched(opened(slab, 10, residency), slab, 0, [3])
    assert time.monotonic() - began < 3
    go.set()
    time.sleep(0.1)


def test_a_filesystem_without_direct_reads_serves_too(slab, monkeypatch):
    monkeypatch.setattr(reader.Reader, "_open_direct", lambda self: None)
    with Residency(slab, 10) as residency:
        assert sorted(fetched(opened(slab, 10, residency), slab, 0, range(EXPERTS))) == list(range(EXPERTS))


@pytest.mark.parametrize("slots", range(2, LAYERS * EXPERTS + 1))
def test_shares_and_what_is_nobodys_share_are_all_slots(slab, slots):
    sizes = ExpertSizes.of(slab)
    own = shares(slots, range(LAYERS), sizes)
    total = sum(own.values())
    assert total == slots if slots == sizes.most else total == max(0, slots - TOP_K)
    assert max(own.values()) - min(own.values()) <= 1


def test_guesses_that_are_still_arriving_only_take_time(slab, monkeypatch):
    read = reader.Reader._read
    monkeypatch.setattr(reader.Reader, "_read", lambda self, one: time.sleep(0.01) or read(self, one))
    with Residency(slab, 2) as residency:
        cache = opened(slab, 2, residency)
        for in_order in (False, True):
            cache.guess(1, [5, 6])
            time.sleep(0.002)  # they are being read
            assert sorted(fetched(cache, slab, 1, [1, 2, 3], in_order)) == [1, 2, 3]
            cache.guess(2, [5, 6])
            time.sleep(0.002)
            assert sorted(fetched(cache, slab, 1, [1, 2, 3], in_order)) == [1, 2, 3]


def test_where_all_stay_they_are_read_before_anybody_asks(slab):
    slots = LAYERS * EXPERTS
    with Residency(slab, slots) as residency:
        cache = opened(slab, slots, residency)
        cache.read_all()
        for layer in range(LAYERS):
            fetched(cache, slab, layer, [3, 5])
        while not residency.idle:
            time.sleep(0.01)
        missed = cache.counts.missed
        for layer in range(LAYERS):
            fetched(cache, slab, layer, range(EXPERTS))
        assert cache.counts.missed == missed <= 2 * LAYERS
        assert cache.bytes_fetched == sum(own.nbytes for own in slab.experts.values())


def test_where_some_do_not_stay_nothing_is_read_unasked(slab):
    with Residency(slab, 40) as residency:
        opened(slab, 40, residency).read_all()
        assert residency.free == 40


@pytest.mark.parametrize("in_order", [False, True])
def test_the_most_valuable_stay_of_more_than_there_is_room_for(slab, in_order):
    slots = LAYERS * 4 + TOP_K
    with Residency(slab, slots) as residency:
        cache = opened(slab, slots, residency)
        value = [*range(4, EXPERTS), 3, 2, 1, 0]
        for layer in range(LAYERS):
            for _ in cache.fetch(layer, range(EXPERTS), in_order, value):
                pass
        missed = cache.counts.missed
        for layer in range(LAYERS):
            fetched(cache, slab, layer, [0, 1, 2, 3])
        assert cache.counts.missed == missed


@pytest.mark.parametrize("error", [None, ValueError])
def test_nothing_stays_open(slab, error):
    before = len(os.listdir("/proc/self/fd"))
    with suppress(ValueError), Residency(slab, 10) as residency:
        fetched(opened(slab, 10, residency), slab, 0, [3])
        if error:
            raise error
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_filesystem_that_refuses_direct_reads_only_when_it_is_asked(slab, monkeypatch):
    preadv, refused = os.preadv, []

    def refusing(descriptor, buffers, offset):
        if os.get_blocking(descriptor) and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            refused.append(descriptor)
            raise OSError(errno.EINVAL, "")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(reader.os, "preadv", refusing)
    with Residency(slab, 10) as residency:
        assert sorted(fetched(opened(slab, 10, residency), slab, 0, range(EXPERTS))) == list(range(EXPERTS))
    assert refused


def test_bad_guesses_are_given_up_and_tried_again_now_and_then():
    trust = Trust()
    assert trust.given()
    for _ in range(100):
        trust.note(1, 8)
    assert sum(trust.given() for _ in range(640)) == 10
    for _ in range(100):
        trust.note(7, 8)
    assert trust.given()
