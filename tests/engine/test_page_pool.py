"""Laws of the pages: nobody's page is taken, what is known is found, and what was released first goes first."""

import random

import pytest

from tpi_mpi.engine.schedule.page_pool import PagePool
from tpi_mpi.kernels.kv_cache import PAGE


def page_of(token: int) -> tuple[int, ...]:
    return (token,) * PAGE


def stored(pool: PagePool, *tokens: int) -> list[int]:
    """The pages of a new sequence, each full of one token; as many as are known are referred to."""
    ids = [id for token in tokens for id in page_of(token)]
    known = pool.find(pool.root(0), ids)
    pages, last = [pool.refer(prefix) for prefix in known], known[-1] if known else pool.root(0)
    for token in tokens[len(known) :]:
        pages.append(pool.take())
        last = pool.remember(last, page_of(token), pages[-1])
    return pages


def test_the_lowest_pages_are_taken_first():
    pool = PagePool(5)
    assert [pool.take() for _ in range(3)] == [0, 1, 2]


def test_what_begins_alike_has_pages_in_common():
    pool = PagePool(5)
    assert stored(pool, 7, 8, 9) == [0, 1, 2]
    assert stored(pool, 7, 8, 6) == [0, 1, 3]
    assert pool.available == 1


def test_released_pages_are_known_until_they_are_needed_the_first_released_going_first():
    pool = PagePool(4)
    one, other = stored(pool, 1, 2), stored(pool, 3, 4)
    pool.release(other)
    pool.release(one)
    assert pool.available == 4
    assert stored(pool, 3) == other[:1]  # and now it is in use
    assert [pool.take() for _ in range(2)] == [other[1], one[1]]
    assert stored(pool, 1) == one[:1]


def test_pages_without_known_content_are_taken_before_those_with():
    pool = PagePool(3)
    known, unknown = stored(pool, 1), [pool.take()]
    pool.release(known)
    pool.release(unknown)
    assert pool.take() in (2, *unknown)
    assert stored(pool, 1) == known


def test_keys_that_are_turned_otherwise_are_others():
    pool = PagePool(4)
    page = pool.take()
    pool.remember(pool.root(0), page_of(1), page)
    assert pool.find(pool.root(0), page_of(1))
    assert not pool.find(pool.root(1), page_of(1))


def test_nothing_is_remembered_that_is_not_shared():
    pool = PagePool(4, share=False)
    pages = stored(pool, 1, 2)
    assert not pool.find(pool.root(0), page_of(1))
    pool.release(pages)
    assert pool.available == 4


def test_a_part_of_a_page_is_found_once_it_has_been_computed():
    pool = PagePool(4)
    stored(pool, 1)
    wanted = [1] * 5 + [2] * 40
    assert pool.find_part(pool.root(0), wanted) == (None, 0)
    pool.swept()
    prefix, count = pool.find_part(pool.root(0), wanted)
    assert (prefix.page, count) == (0, 5)


@pytest.mark.parametrize("seed", range(5))
def test_a_page_in_use_is_never_taken(seed):
    draw, pool, running = random.Random(seed), PagePool(12), []
    for _ in range(2000):
        if running and (draw.random() < 0.5 or pool.available < 4):
            pool.release(running.pop(draw.randrange(len(running)))[0])
        else:
            tokens = [draw.randrange(2) for _ in range(draw.randint(1, 4))]
            running.append((stored(pool, *tokens), tokens))
        content = {}
        for pages, tokens in running:
            for place, page in enumerate(pages):
                assert content.setdefault(page, tokens[: place + 1]) == tokens[: place + 1]
        assert pool.available == 12 - len(content)
