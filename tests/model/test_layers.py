"""The layers' arithmetic: everything fast equals the obvious."""

import pytest
import torch

from tpi_mpi.model import layers
from tpi_mpi.model.layers import attention, causal_mask


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def obvious_attention(queries, keys, values, owners, mask):
    """One head after the other; ``owners`` names the key-value head of each query head."""
    mixed = []
    for query, owner in zip(queries, owners, strict=True):
        scores = query @ keys[owner].T / query.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        mixed.append(scores.softmax(-1) @ values[owner])
    return torch.stack(mixed)


@pytest.mark.parametrize(("start", "count", "window"), [(0, 1, None), (0, 6, None), (5, 1, None), (5, 3, 4), (0, 6, 2)])
@pytest.mark.parametrize(
    ("heads_per_kv", "first", "heads"), [(1, 0, 3), (4, 0, 8), (4, 0, 3), (4, 3, 2), (4, 2, 7), (2, 1, 1)]
)
def test_attention_of_any_part_of_the_heads_is_the_obvious_one(start, count, window, heads_per_kv, first, heads):
    kv_heads = -(-(first + heads) // heads_per_kv)
    first_key = 0 if window is None else max(0, start - window + 1)
    length = start + count - first_key
    queries, keys, values = (
        random(heads, count, 6),
        random(kv_heads, length, 6, seed=1),
        random(kv_heads, length, 6, seed=2),
    )
    mask = causal_mask(start, count, first_key, window) if count > 1 else None
    owners = [(first + head) // heads_per_kv for head in range(heads)]
    expected = obvious_attention(queries, keys, values, owners, mask)
    torch.testing.assert_close(attention(queries, keys, values, heads_per_kv, first, mask), expected)


def test_a_mask_lets_every_position_see_its_window_and_nothing_later():
    assert causal_mask(0, 3, 0, None).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert causal_mask(4, 2, 3, 2).tolist() == [[True, True, False], [False, True, True]]


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"])
def test_activations_are_those_of_transformers(name):
    from transformers.activations import ACT2FN

    gate, up = random(3, 8), random(3, 8, seed=1)
    torch.testing.assert_close(layers.gated(name, gate, up), ACT2FN[name](gate) * up)
