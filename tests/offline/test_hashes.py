"""A set of hashes is a set, and small."""

import random
import tracemalloc

from tpi_mpi.offline.hashes import HashSet, hash_of


def test_it_says_what_is_new_as_a_set_does():
    draw = random.Random(0)
    hashes, known = HashSet(), set()
    for _ in range(200_000):
        value = draw.randrange(150_000) << 46
        assert (value in hashes) == (value in known)
        assert hashes.add(value) == (value not in known)
        known.add(value)


def test_it_takes_few_bytes_for_each():
    tracemalloc.start()
    hashes = HashSet()
    for value in range(200_000):
        hashes.add(value << 44)
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 16 * 200_000
    assert peak < 30 * 200_000


def test_numbers_and_texts_differ():
    assert len({hash_of(1), hash_of("1"), hash_of(None), hash_of(1, None), hash_of([1])}) == 5
    assert hash_of("a", (1, 2)) == hash_of("a", [1, 2])
    assert hash_of("\ud800") != hash_of("\ud801")
