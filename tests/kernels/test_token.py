"""Laws: a token's compiled norms and attention equal the obvious ones, and leave the same cache behind."""

import pytest
import torch

from tpi_mpi.kernels.compiled import token
from tpi_mpi.model.kv_cache import KVCache
from tpi_mpi.model.layers import attention, rms_norm
from tpi_mpi.model.rope import rotate

POSITION, CAPACITY = 20, 40


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 64), (5, 100), (3, 4, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_equal_the_obvious_ones(shape, dtype):
    states, weight = random(*shape), random(shape[-1], seed=1).to(dtype)
    torch.testing.assert_close(token.normalise(states, weight, 1e-5), rms_norm(states, weight, 1e-5))


def test_norms_of_states_that_do_not_lie_together():
    states, weight = random(6, 2, 16).transpose(0, 1), random(16, seed=1)
    torch.testing.assert_close(token.normalise(states, weight, 1e-5), rms_norm(states, weight, 1e-5))


def test_what_is_no_number_stays_in_its_row():
    states = random(3, 32)
    states[1, 5] = float("nan")
    results = token.normalise(states, torch.ones(32), 1e-5)
    assert results[1].isnan().all()
    assert results[::2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("first", [0, 7, POSITION])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "heads_per_kv", "first_head", "dim", "rotary"),
    [(8, 1, 8, 0, 64, 64), (5, 3, 2, 1, 16, 8), (4, 2, 2, 0, 24, 24), (3, 3, 1, 0, 80, 20), (2, 1, 4, 1, 6, 6)],
)
def test_attention_equals_the_obvious_one(dtype, first, heads, kv_heads, heads_per_kv, first_head, dim, rotary):
    queries, keys, values = random(1, heads, dim), random(1, kv_heads, dim, seed=1), random(1, kv_heads, dim, seed=2)
    angles = random(1, rotary // 2, seed=3), random(1, rotary // 2, seed=4)
    caches = [KVCache(2, kv_heads, CAPACITY, dim, dtype) for _ in range(2)]
    for cache in caches:
        cache.append(1, 0, random(kv_heads, POSITION, dim, seed=5), random(kv_heads, POSITION, dim, seed=6))
    own = (states.transpose(0, 1) for states in (queries, keys, values))
    query, key, value = own
    caches[0].append(1, POSITION, rotate(key, *angles), value)
    seen = caches[0].read(1, first, POSITION + 1)
    expected = attention(rotate(query, *angles), *seen, heads_per_kv, first_head).transpose(0, 1).flatten(1)
    own = queries.clone(), keys.clone(), values
    result = token.attention(*own, angles, caches[1].layer(1), (first, POSITION), (first_head, heads_per_kv))
    torch.testing.assert_close(result, expected)
    for left, right in zip(caches[0].read(1, 0, POSITION + 1), caches[1].read(1, 0, POSITION + 1), strict=True):
        assert torch.equal(left, right)


def test_large_scores_do_not_overflow():
    cache = KVCache(1, 1, 8, 16, torch.float32)
    angles = torch.ones(1, 8), torch.zeros(1, 8)
    states = torch.full((1, 1, 16), 100.0)
    result = token.attention(states.clone(), states.clone(), states, angles, cache.layer(0), (0, 0), (0, 1))
    torch.testing.assert_close(result, torch.full((1, 16), 100.0))
